"""The example in one click: app/example.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock, create_autospec

import pytest

from app.example import example_config, start_example
from app.studio import studio
from backend.errors import ConfigError, RunError
from backend.manager import process_manager
from backend.run_dir import RunDir
from tests.app.states import Runs


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """In place of a trainer."""
    fake = create_autospec(process_manager.start)
    monkeypatch.setattr(process_manager, "start", fake)
    return fake


@pytest.fixture
def live(runs: Runs, start: Mock) -> Callable[[RunDir], None]:
    """Makes the fake start leave the run at work."""

    def hold(run: RunDir) -> None:
        runs._held.enter_context(run.lock())
        run.begin_attempt(("python",))

    start.side_effect = hold
    return hold


def test_its_files_are_there_wherever_one_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = example_config()
    assert Path(config.data.train).is_file()
    assert Path(str(config.data.validation)).is_file()
    assert config.name == "food-category"


def test_the_environment_has_its_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH__TRAINING__MAX_STEPS", "7")
    monkeypatch.setenv("TUNESMITH__DATA__VALIDATION", "0.5")
    assert example_config().training.max_steps == 7
    assert example_config().data.validation == 0.5


def test_a_wrong_setting_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH__TRAINING__MAX_STEPS", "many")
    with pytest.raises(ConfigError, match=r"training\.max_steps"):
        example_config()


def test_it_is_an_ordinary_run(root: Path, start: Mock) -> None:
    run = start_example(studio())
    assert run.path.parent == root / "runs"
    assert "name: food-category" in run.read_config_text()
    start.assert_called_once_with(run)


def test_f12_many_who_press_at_once_get_one_run(root: Path, runs: Runs, live: object, start: Mock) -> None:
    gate, got = threading.Barrier(8), []
    shared = studio()

    def press() -> None:
        gate.wait()
        got.append(start_example(shared))

    threads = [threading.Thread(target=press) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 1
    assert start.call_count == 1
    assert RunDir.all_under(root / "runs") == [got[0]]


def test_another_one_once_it_is_over(root: Path, start: Mock) -> None:
    assert start_example(studio()) != start_example(studio())


def test_another_live_run_is_not_mistaken_for_it(runs: Runs, start: Mock) -> None:
    other = runs.running()
    assert start_example(studio()) != other


def test_what_cannot_start_is_raised(root: Path, start: Mock) -> None:
    start.side_effect = RunError("No room.", remedy="Make some.", code="disk-low")
    with pytest.raises(RunError, match="No room"):
        start_example(studio())
