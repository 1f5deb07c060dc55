"""Start or queue a run, once: app/start.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from app.start import start_or_queue
from app.studio import Studio, studio
from backend.errors import RunError
from backend.manager import process_manager
from backend.run.folder import RunDir
from backend.run.reports import DataCheck, DataFinding
from backend.run.settings import parse_config

Locks = list[AbstractContextManager[object]]
CONFIG = parse_config({"name": "foods", "data": {"train": "/data/foods.jsonl"}})


@pytest.fixture
def here(root: Path) -> Studio:
    return studio()


@pytest.fixture
def locks(monkeypatch: pytest.MonkeyPatch) -> Locks:
    """The locks of the started runs: a run is active while its lock is held, without a trainer."""
    held: Locks = []

    def hold(run: RunDir, **_: object) -> None:
        lock = run.lock()
        lock.__enter__()
        held.append(lock)

    monkeypatch.setattr(process_manager, "start", create_autospec(process_manager.start, side_effect=hold))
    return held


def test_w6_two_tabs_pressing_start_at_once_make_one_run(here: Studio, locks: Locks) -> None:
    with ThreadPoolExecutor(4) as tabs:
        runs = [each.result() for each in [tabs.submit(start_or_queue, here, CONFIG) for _ in range(4)]]
    assert len({run.id for run in runs}) == 1
    assert len(locks) == 1


def test_another_configuration_is_another_run(here: Studio, locks: Locks) -> None:
    other = CONFIG.model_copy(update={"seed": 1})
    assert start_or_queue(here, CONFIG).id != start_or_queue(here, other).id
    assert len(locks) == 2


def test_the_same_again_once_the_first_is_over(here: Studio, locks: Locks) -> None:
    first = start_or_queue(here, CONFIG)
    locks.pop().__exit__(None, None, None)
    assert start_or_queue(here, CONFIG).id != first.id


def test_queueing_twice_takes_one_place(here: Studio, locks: Locks) -> None:
    here.runs.root.mkdir()
    here.queue.set_slots("default", 0)
    assert start_or_queue(here, CONFIG, queue=True).id == start_or_queue(here, CONFIG, queue=True).id
    assert len(here.queue.waiting()) == 1
    assert locks == []


def test_a_queued_run_starts_at_once_in_a_free_slot(here: Studio, locks: Locks) -> None:
    run = start_or_queue(here, CONFIG, queue=True)
    assert run.is_held()
    assert here.queue.waiting() == []


def test_the_findings_of_the_data_check_are_kept_with_the_run(here: Studio, locks: Locks) -> None:
    findings = DataCheck((DataFinding("empty", "Empty rows", "warn", 2, "They teach nothing."),))
    assert start_or_queue(here, CONFIG, checked=findings).read_data_check() == findings


def test_a_run_that_cannot_start_says_so_and_is_kept(here: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    full = RunError("No room.", remedy="Make some.", code="disk-low")
    monkeypatch.setattr(process_manager, "start", create_autospec(process_manager.start, side_effect=full))
    with pytest.raises(RunError, match="No room"):
        start_or_queue(here, CONFIG)
    assert [one.status.value for one in here.runs.list()] == ["created"]
