"""A configuration becomes a run, once: app/start.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from app.start import begin
from app.studio import Studio, studio
from backend.errors import RunError
from backend.manager import process_manager
from backend.run.config import parse_config
from backend.run.folder import RunDir

CONFIG = parse_config({"name": "foods", "data": {"train": "/data/foods.jsonl"}})


@pytest.fixture
def place(root: Path) -> Studio:
    return studio()


@pytest.fixture
def locks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Instead of a trainer, a lock on each started run; the runs are at work as long as they stand here."""
    held: list[object] = []

    def hold(run: RunDir, **_: object) -> None:
        lock = run.lock()
        lock.__enter__()
        held.append(lock)

    monkeypatch.setattr(process_manager, "start", create_autospec(process_manager.start, side_effect=hold))
    return held


def test_w6_two_tabs_pressing_start_at_once_make_one_run(place: Studio, locks: list[object]) -> None:
    with ThreadPoolExecutor(4) as tabs:
        runs = [each.result() for each in [tabs.submit(begin, place, CONFIG) for _ in range(4)]]
    assert len({run.id for run in runs}) == 1
    assert len(locks) == 1


def test_another_configuration_is_another_run(place: Studio, locks: list[object]) -> None:
    other = CONFIG.model_copy(update={"seed": 1})
    assert begin(place, CONFIG).id != begin(place, other).id
    assert len(locks) == 2


def test_the_same_again_once_the_first_is_over(place: Studio, locks: list[object]) -> None:
    first = begin(place, CONFIG)
    locks.pop().__exit__(None, None, None)  # type: ignore[attr-defined]
    assert begin(place, CONFIG).id != first.id


def test_queueing_twice_takes_one_place(
    place: Studio, locks: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.runs.root.mkdir()
    place.queue.set_slots("default", 0)
    assert begin(place, CONFIG, queue=True).id == begin(place, CONFIG, queue=True).id
    assert len(place.queue.waiting()) == 1


def test_a_run_that_cannot_start_says_so_and_is_kept(place: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    full = RunError("No room.", remedy="Make some.", code="disk-low")
    monkeypatch.setattr(process_manager, "start", create_autospec(process_manager.start, side_effect=full))
    with pytest.raises(RunError, match="No room"):
        begin(place, CONFIG)
    assert [one.status.value for one in place.runs.list()] == ["created"]
