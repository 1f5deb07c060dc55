"""What the terminal says to do next: backend/commands/phrases.py."""

from __future__ import annotations

import shlex

import pytest

from backend.commands.phrases import (
    PHRASES,
    error_text,
    flags,
    what_to_do,
    with_flags,
)
from backend.errors import ConfigError, NextStep, Problem, RunError, TunesmithError, UnsoundDataError, marked
from tests.test_architecture import COMMANDS


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
