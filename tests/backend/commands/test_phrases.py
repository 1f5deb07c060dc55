"""What the terminal says to do next: backend/commands/phrases.py."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from backend.commands.phrases import (
    PHRASES,
    advice_lines,
    error_text,
    explanation_record,
    flags,
    next_action,
    outcome_record,
    state_record,
    what_to_do,
    with_flags,
)
from backend.errors import ConfigError, NextStep, Problem, RunError, TunesmithError, UnsoundDataError, marked
from backend.manager.explain import explain
from backend.run.folder import RunDir
from backend.run.reports import Outcome, RunState, RunStatus
from tests.runs import do_harm
from tests.test_architecture import COMMANDS


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """Return a run that was just made in the runs of the current folder."""
    monkeypatch.chdir(tmp_path)
    return RunDir.create(tmp_path / "runs", "food", "data: {train: food.jsonl}\n")


def test_there_is_a_command_for_every_step() -> None:
    assert set(PHRASES) == set(NextStep)


@pytest.mark.parametrize("step", set(NextStep) - {NextStep.STOP_SERVER})
def test_each_command_is_one_of_ours(step: NextStep) -> None:
    said = what_to_do("", step, "food")
    assert "{" not in said
    assert any(said.partition("tunesmith ")[2].startswith(" ".join(words)) for words in COMMANDS)


@pytest.mark.parametrize(
    ("remedy", "said"),
    [
        ("Name it as `base_model`.", "Name it as --base-model."),
        ("Lower `training.learning_rate`.", "Lower --training.learning_rate."),
        ("Export it with `to=merged`.", "Export it with --to merged."),
        ("Mend the rows.", "Mend the rows."),
        ("A `Capital` and `two words` stay.", "A `Capital` and `two words` stay."),
    ],
)
def test_a_marked_setting_is_a_flag(remedy: str, said: str) -> None:
    assert with_flags(remedy) == said


@pytest.mark.parametrize("value", ["question", "my question", "a`b", "`; rm -rf ~; `", "", "it's"])
def test_a_value_reaches_the_shell_as_one_word(value: str) -> None:
    said = with_flags(f"Say: {marked('columns.prompt', value)} {marked('columns.completion', 'b')}")
    assert shlex.split(said) == ["Say:", "--columns.prompt", value, "--columns.completion", "b"]


def test_flags_of_options_have_dashes_and_those_of_settings_none() -> None:
    settings = {"lower_lr": "0.5", "training.learning_rate": "1"}
    assert flags(settings) == ["--lower-lr", "0.5", "--training.learning_rate", "1"]


def test_the_remedy_comes_before_the_command() -> None:
    said = what_to_do("Give another `out`.", NextStep.WATCH, "food")
    assert said == "Give another --out. Watch it with: tunesmith runs watch food"
    assert what_to_do("", None, "food") == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RunError("It trains.", remedy="Wait.", code="x", next_step=NextStep.WATCH, about="food"),
            "It trains. Wait. Watch it with: tunesmith runs watch food",
        ),
        (
            RunError("No slots.", remedy="", code="x", next_step=NextStep.MAKE_SLOTS, about="my gpu"),
            "No slots. Make slots with: tunesmith runs queue slots 1 --device 'my gpu'",
        ),
        (RunError("Said `token=True`.", remedy="Give `out`.", code="x"), "Said `token=True`. Give --out."),
        (
            ConfigError([Problem("data.train", "is required.", f"Set {marked('data.train', 'a.jsonl')}.")]),
            "data.train: is required. Set --data.train a.jsonl.",
        ),
        (
            UnsoundDataError("STOP.", [Problem("empty", "3 rows.", "")], remedy="Mend `data.train`."),
            "STOP.\n  empty: 3 rows.\nMend --data.train.",
        ),
    ],
)
def test_an_error_in_the_words_of_the_terminal(error: TunesmithError, said: str) -> None:
    assert error_text(error) == said


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
