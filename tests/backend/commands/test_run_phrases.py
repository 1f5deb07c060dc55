"""What the terminal says about a run: backend/commands/run_phrases.py."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from backend.commands.run_phrases import (
    advice_lines,
    explanation_record,
    next_action,
    outcome_record,
    state_record,
)
from backend.errors import NextStep
from backend.manager.explain import explain
from backend.run.folder import RunDir
from backend.run.reports import Outcome, RunState, RunStatus
from tests.runs import do_harm


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """Return a run that was just made in the runs of the current folder."""
    monkeypatch.chdir(tmp_path)
    return RunDir.create(tmp_path / "runs", "food", "data: {train: food.jsonl}\n")


def test_a_state_as_plain_values() -> None:
    state = RunState(RunStatus.STOPPED, "paused", "Stopped.", next_step=NextStep.RESUME, attempt=2)
    assert state_record("food", vars(state)) == {
        "status": "stopped",
        "reason": "paused",
        "message": "Stopped.",
        "next_action": "Resume it with: tunesmith runs resume food",
        "attempt": 2,
        "damage": "",
    }


def end(run: RunDir, outcome: Outcome) -> Outcome:
    run.begin_attempt(("a",), pid=os.getpid())
    run.write_outcome(outcome)
    return outcome


def test_an_outcome_says_how_to_go_on(run: RunDir) -> None:
    record = outcome_record(run, end(run, Outcome(RunStatus.STOPPED, "paused", "Stopped.")))
    assert record["remedy"] == f"Resume it with: tunesmith runs resume {run.id}"


def test_an_outcome_that_finished_stays_as_it_is(run: RunDir) -> None:
    finished = Outcome(RunStatus.FINISHED, "completed", "Done.")
    assert outcome_record(run, end(run, finished)) == vars(finished)


def test_what_to_do_after_memory_ran_out(run: RunDir) -> None:
    end(run, Outcome(RunStatus.FAILED, "out-of-memory", "Memory ran out.", "Compute less."))
    command = f"tunesmith runs resume {run.id} --training.micro_batch_tokens N"
    assert next_action(run, run.state()) == f"Compute less. Branch off with: {command}"
    lines = advice_lines(run, explain(run))
    assert lines[-1] == f"Branch off with: {command}"
    assert "a smaller --training.micro_batch_tokens" in lines[0]


def test_after_harm_the_way_back_comes_last(run: RunDir) -> None:
    do_harm(run)
    branch = f"tunesmith runs resume {run.id} --from-step 20 --lower-lr 0.1"
    assert next_action(run, run.state()).endswith(f"Branch off with: {branch}")
    record = explanation_record(run, explain(run))
    assert record["branch"] == ["--from-step", "20", "--lower-lr", "0.1"]
    assert record["advice"][-1] == f"Branch off with: {branch}"


def test_the_way_back_of_a_run_in_a_folder_with_blanks_can_be_typed(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "my runs", "x", "data: {train: x}\n")
    with run.metrics_writer() as writer:
        writer.append({"step": 0, "eval/loss": 5.96})
        writer.append({"step": 20, "eval/loss": 1580.0, "train/learning_rate": 0.02})
    end(run, Outcome(RunStatus.FAILED, "non-finite-gradient", "It failed."))
    (*_, command) = next_action(run, run.state()).partition("tunesmith ")
    assert shlex.split(command) == ["train", str(run.config), "--training.learning_rate", "0.002"]
