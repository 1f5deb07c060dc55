"""A configuration becomes a run, once: backend/manager/launch.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from backend.errors import RunError
from backend.manager import launch as module
from backend.manager import process_manager
from backend.manager.launch import launch
from backend.manager.queue_manager import QueueManager
from backend.manager.run_manager import RunManager
from backend.run.folder import RunDir
from backend.run.reports import DataCheck, DataFinding, RunStatus
from backend.run.settings import parse_config
from backend.utils.lock_utils import LockedError, hold_lock

CONFIG = parse_config({"name": "foods", "data": {"train": "/data/foods.jsonl"}})


@pytest.fixture
def locks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Instead of a trainer, a lock on each started run; the runs are at work as long as they stand here."""
    held: list[object] = []

    def hold(run: RunDir, **_: object) -> None:
        lock = run.lock()
        lock.__enter__()
        held.append(lock)

    monkeypatch.setattr(
        module.process_manager, "start", create_autospec(process_manager.start, side_effect=hold)
    )
    return held


def test_a_run_that_is_only_created(tmp_path: Path) -> None:
    run = launch(tmp_path, CONFIG, "create")
    assert run.status() is RunStatus.CREATED
    assert run.id.split("-")[2] == "foods"


def test_a_run_without_a_name_is_called_as_its_data(tmp_path: Path) -> None:
    run = launch(tmp_path, parse_config({"data": {"train": "/data/fruit.csv"}}), "create")
    assert run.id.split("-")[2] == "fruit"


def test_paths_do_not_depend_on_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = launch(tmp_path, parse_config({"data": {"train": "foods.jsonl"}}), "create")
    assert f"{tmp_path}/foods.jsonl" in run.read_config_text()


def test_the_template_is_part_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.jinja").write_text("{{ messages[0]['content'] }}")
    config = parse_config({"data": {"train": "foods.jsonl"}, "model": {"chat_template": "my.jinja"}})
    kept = launch(tmp_path, config, "create").read_config_text()
    assert "my.jinja" not in kept
    assert "{{ messages[0]" in kept


def test_what_the_data_check_found_is_kept_with_the_run(tmp_path: Path) -> None:
    found = DataCheck(
        (DataFinding("duplicates", "Rows repeat", "block", 7, "Harm.", ("f:1",)),), ("duplicates",)
    )
    assert launch(tmp_path, CONFIG, "create", checked=found).read_data_check() == found
    assert launch(tmp_path, CONFIG, "create").read_data_check() == DataCheck(())


def test_the_same_configuration_twice_is_two_runs_unless_once_is_asked_for(
    tmp_path: Path, locks: list[object]
) -> None:
    first = launch(tmp_path, CONFIG, "start")
    assert launch(tmp_path, CONFIG, "start").id != first.id
    assert launch(tmp_path, CONFIG, "start", once=True).id in {run.id for run in RunDir.all_under(tmp_path)}
    assert len(locks) == 2


def test_a_start_waits_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0)
    with hold_lock(tmp_path / ".start.lock"), pytest.raises(LockedError):
        launch(tmp_path, CONFIG, "create")
    assert list(RunDir.all_under(tmp_path)) == []


def test_four_askers_at_once_make_one_run(tmp_path: Path, locks: list[object]) -> None:
    begin = partial(launch, tmp_path, CONFIG, "start", once=True)
    with ThreadPoolExecutor(4) as tabs:
        runs = [each.result() for each in [tabs.submit(begin) for _ in range(4)]]
    assert len({run.id for run in runs}) == 1
    assert len(locks) == 1


def test_queueing_takes_a_place_and_starts_nothing(tmp_path: Path, locks: list[object]) -> None:
    run = launch(tmp_path, CONFIG, "queue")
    assert [waiting.id for waiting, _ in QueueManager(tmp_path).waiting()] == [run.id]
    assert locks == []


def test_a_run_that_cannot_start_says_so_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = RunError("No room.", remedy="Make some.", code="disk-low")
    monkeypatch.setattr(
        module.process_manager, "start", create_autospec(process_manager.start, side_effect=full)
    )
    with pytest.raises(RunError, match="No room"):
        launch(tmp_path, CONFIG, "start")
    assert [run.status() for run in RunDir.all_under(tmp_path)] == [RunStatus.CREATED]


class TestTheNameOfARun:
    def test_it_can_be_asked_for_by_it(self, tmp_path: Path) -> None:
        run = launch(tmp_path, CONFIG, "create")
        assert RunManager(tmp_path).find("foods") == run
        assert RunManager(tmp_path).show(run.id).title == "foods"

    def test_a_name_that_another_run_has_stays_that_run_s(self, tmp_path: Path) -> None:
        first, second = (launch(tmp_path, CONFIG, "create") for _ in range(2))
        assert RunManager(tmp_path).find("foods") == first
        assert RunManager(tmp_path).show(second.id).title == second.id

    @pytest.mark.parametrize("name", ["latest", "base", "-x", "a@b", "x\x1b[2J"])
    def test_a_name_that_means_something_else_is_refused_before_anything_is_written(
        self, tmp_path: Path, name: str
    ) -> None:
        with pytest.raises(RunError) as caught:
            launch(tmp_path, CONFIG.model_copy(update={"name": name}), "create")
        assert caught.value.code == "bad-name"
        assert list(tmp_path.iterdir()) == []
