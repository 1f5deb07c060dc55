"""What the studio says to do next: app/phrases.py."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from app.phrases import PHRASES, command, what_to_do, without_marks
from backend.errors import NextStep, marked
from backend.manager.explain import explain
from backend.run.folder import RunDir
from tests.runs import do_harm


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Return a run that was just made."""
    return RunDir.create(tmp_path / "runs", "food", "data: {train: food.jsonl}\n")


def test_there_are_words_for_every_step() -> None:
    assert set(PHRASES) == set(NextStep)


@pytest.mark.parametrize("step", NextStep)
def test_they_are_sentences_about_what_it_is(step: NextStep) -> None:
    said = what_to_do("", step, "food")
    assert said[0].isupper()
    assert "{" not in said


def test_the_remedy_comes_first() -> None:
    assert what_to_do("Mend it.", NextStep.START, "food") == "Mend it. Press Start when you are ready."
    assert what_to_do("", None, "food") == ""


@pytest.mark.parametrize(
    ("remedy", "said"),
    [
        ("Name it as `base_model`.", "Name it as base_model."),
        ("Choose `to=merged`.", "Choose to = merged."),
        (f"Set {marked('data.delimiter', '`')}.", "Set data.delimiter = `."),
        ("Mend the rows.", "Mend the rows."),
    ],
)
def test_settings_stand_by_their_names(remedy: str, said: str) -> None:
    assert without_marks(remedy) == said


def test_the_command_that_branches_off(run: RunDir) -> None:
    assert command(run, explain(run)) == ""
    do_harm(run)
    words = ["tunesmith", "runs", "resume", str(run.path), "--from-step", "20", "--lower-lr", "0.1"]
    assert shlex.split(command(run, explain(run))) == words


def test_the_command_that_starts_again(run: RunDir) -> None:
    told = replace(explain(run), again={"training.learning_rate": "0.002"})
    words = ["tunesmith", "train", str(run.config), "--training.learning_rate", "0.002"]
    assert shlex.split(command(run, told)) == words
