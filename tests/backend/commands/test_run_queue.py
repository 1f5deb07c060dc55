"""Which run trains next: backend/commands/run_queue.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backend.commands.cli import main
from backend.manager import process_manager
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from tests.runs import make_run


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def three(tmp_path: Path, learner: Path, rows_file: Path) -> list[RunDir]:
    """Three new runs, and no slot to start them."""
    assert queue("slots", "0") == 0
    return [make_run(tmp_path / "runs", learner, rows_file) for _ in range(3)]


Screen = pytest.CaptureFixture[str]


def queue(*words: str) -> int:
    return main(["runs", "queue", *words])


def record(capsys: Screen, *words: str) -> Any:
    capsys.readouterr()
    assert queue(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def order(capsys: Screen) -> list[str]:
    return [item["run"] for item in record(capsys, "list")["waiting"]]


def test_an_empty_queue(capsys: Screen) -> None:
    assert queue() == 0
    assert "The queue is empty." in capsys.readouterr().out


def test_first_come_first_served_until_somebody_changes_it(three: list[RunDir], capsys: Screen) -> None:
    a, b, c = (run.id for run in three)
    assert [record(capsys, "enqueue", name)["place"] for name in (a, b, c)] == [1, 2, 3]
    assert order(capsys) == [a, b, c]
    assert queue("move", c, "--before", a) == 0
    assert order(capsys) == [c, a, b]
    assert record(capsys, "priority", b, "5")["place"] == 1
    assert order(capsys) == [b, c, a]
    assert record(capsys, "leave", c)["status"] == "created"
    assert order(capsys) == [b, a]


def test_holding_and_releasing(three: list[RunDir], capsys: Screen) -> None:
    first = three[0]
    assert record(capsys, "enqueue", first.id, "--hold")["reason"] == "held"
    assert queue("list") == 0
    assert "held" in capsys.readouterr().out
    assert record(capsys, "release", first.id)["reason"] == "waiting"
    assert record(capsys, "hold", first.id)["reason"] == "held"


def test_a_line_for_a_person(three: list[RunDir], capsys: Screen) -> None:
    assert queue("enqueue", three[0].id) == 0
    assert f"{three[0].id} is number 1 of 1 in the queue." in capsys.readouterr().out
    assert queue("leave", three[0].id) == 0
    assert f"{three[0].id} is created." in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("light_trainer")
def test_a_free_slot_starts_the_first_one(three: list[RunDir], capsys: Screen) -> None:
    first, second, _ = three
    assert queue("enqueue", first.id) == 0
    assert queue("enqueue", second.id, "--hold") == 0
    assert record(capsys, "slots", "1")["slots"] == {"default": 1}
    assert process_manager.wait(first, timeout_seconds=120).status is RunStatus.FINISHED
    assert second.status() is RunStatus.QUEUED


@pytest.mark.slow
@pytest.mark.usefixtures("light_trainer")
def test_a_run_with_a_free_slot_does_not_wait(
    tmp_path: Path, learner: Path, rows_file: Path, capsys: Screen
) -> None:
    run = make_run(tmp_path / "runs", learner, rows_file)
    assert queue("enqueue", run.id) == 0
    assert f"{run.id} had a free slot and trains now." in capsys.readouterr().out
    assert process_manager.wait(run, timeout_seconds=120).status is RunStatus.FINISHED


def test_train_puts_a_new_run_into_the_queue(three: list[RunDir], tmp_path: Path, capsys: Screen) -> None:
    config = three[0].config
    assert main(["train", str(config), "--queue"]) == 0
    (queued,) = [run for run in RunDir.all_under(tmp_path / "runs") if run.status() is RunStatus.QUEUED]
    assert queued not in three
    assert f"{queued.id} is number 1 of 1" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["leave"], ["hold"], ["release"], ["priority", "1"]])
def test_what_does_not_wait_cannot_be_changed(three: list[RunDir], capsys: Screen, words: list[str]) -> None:
    capsys.readouterr()
    assert queue(words[0], three[0].id, *words[1:], "--json") == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "illegal-transition"
