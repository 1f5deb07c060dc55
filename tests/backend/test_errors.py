"""The error tree: backend/errors.py."""

from __future__ import annotations

import re

import pytest

from backend import errors
from backend.errors import MARKED_SETTING, ConfigError, NextStep, Problem, TunesmithError, marked, unmarked

PLAIN = [
    *(errors.DataError, errors.ModelError, errors.RunError, errors.InferenceError),
    *(errors.ExportError, errors.TrainingError),
]


@pytest.mark.parametrize("kind", [TunesmithError, *PLAIN])
def test_an_error_says_what_where_and_what_to_do(kind: type[TunesmithError]) -> None:
    error = kind("Row 3 is empty.", remedy="Fill it.", code="empty-row")
    assert (error.message, error.remedy, error.code) == ("Row 3 is empty.", "Fill it.", "empty-row")
    assert str(error) == "Row 3 is empty. Fill it."
    assert error.args == ("Row 3 is empty.",)


@pytest.mark.parametrize(
    ("quoted", "said"),
    [
        ("it is cut", "No: it is cut."),
        ("it is cut.", "No: it is cut."),
        ("Never!", "No: Never!"),
        ("Why?", "No: Why?"),
        ("and so on...", "No: and so on...."),
    ],
)
def test_a_sentence_that_quotes_another_has_one_end_mark(quoted: str, said: str) -> None:
    assert TunesmithError(f"No: {quoted}.", remedy="", code="no").message == said


def test_without_a_remedy_nothing_trails() -> None:
    assert str(TunesmithError("It is full.", remedy="", code="full")) == "It is full."


def test_what_comes_next_and_for_what_stands_beside_the_words() -> None:
    error = TunesmithError("It trains.", remedy="Wait.", code="x", next_step=NextStep.WATCH, about="food")
    assert (error.next_step, error.about) == ("watch", "food")
    assert str(error) == "It trains. Wait."
    plain = TunesmithError("It is full.", remedy="", code="full")
    assert (plain.next_step, plain.about) == (None, "")


@pytest.mark.parametrize("value", ["a", "two words", "a`b", "`", "``", "", "x=y"])
def test_a_marked_setting_is_found_with_its_value(value: str) -> None:
    text = f"Set {marked('data.delimiter', value)} and {marked('data.encoding', 'cp1252')}, or `out`."
    found = [unmarked(each) for each in MARKED_SETTING.finditer(text)]
    assert found == [("data.delimiter", value), ("data.encoding", "cp1252"), ("out", None)]


@pytest.mark.parametrize("text", ["`Two`", "`rm -rf`", "``x``", "`=1`", "none"])
def test_other_backticks_mark_nothing(text: str) -> None:
    assert MARKED_SETTING.search(text) is None


def test_a_configuration_error_holds_every_problem() -> None:
    problems = [Problem("seed", "is odd.", "Choose 42."), Problem("data.train", "is required.", "Set it.")]
    error = ConfigError(iter(problems))
    assert error.problems == tuple(problems)
    assert error.code == "bad-config"
    assert str(error) == "seed: is odd. Choose 42.\ndata.train: is required. Set it."


def test_a_configuration_error_can_have_its_own_code() -> None:
    assert ConfigError([Problem("x", "y", "")], code="bad-flag").code == "bad-flag"
    assert str(Problem("x", "y", "")) == "x: y"


@pytest.mark.parametrize("kind", [ConfigError, *PLAIN])
def test_one_base_catches_them_all(kind: type[TunesmithError]) -> None:
    assert kind.__bases__ == (TunesmithError,)
    assert not issubclass(TunesmithError, OSError | ValueError | RuntimeError)


def test_the_drawing_in_the_docstring_is_the_tree() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    kinds = TunesmithError.__subclasses__()
    kinds += [under for kind in kinds for under in kind.__subclasses__()]
    assert sorted(drawn) == sorted(kind.__name__ for kind in kinds)
    assert len(drawn) == 9
