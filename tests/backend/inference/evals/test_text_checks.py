"""Checks of an answer's text: backend/inference/evals/text_checks.py."""

from __future__ import annotations

import math
from typing import Any

import pytest

from backend.errors import ConfigError
from backend.inference.evals.assertions import make_verifier
from backend.inference.evals.text_checks import shown
from backend.inference.evals.verdicts import Answer, Score

ROW = {"prompt": "p", "expected": "Blue", "colour": "Red"}


def score(text: str | Answer, kind: str, value: Any = None, **more: Any) -> Score:
    answer = text if isinstance(text, Answer) else Answer(text)
    return make_verifier({"type": kind, "value": value, **more}, "x")(answer, ROW)


@pytest.mark.parametrize(
    ("text", "kind", "value", "passed"),
    [
        ("Blue", "equals", None, True),
        (" Blue", "equals", None, False),
        ("Red", "equals", "{{colour}}", True),
        ('{"a": 1.0}', "equals", {"a": 1}, True),
        ('{"a": 2}', "equals", {"a": 1}, False),
        ("no json", "equals", [1], False),
        (" Blue\n", "exact-match", None, True),
        ("<think>Red</think> Blue", "exact-match", None, True),
        ("blue", "exact-match", None, False),
        ("a Blue b", "contains", None, True),
        ("a blue b", "contains", None, False),
        ("a BLUE b", "icontains", None, True),
        ("STRASSE", "icontains", "straße", True),
        ("abc", "contains-all", ["a", "c"], True),
        ("abc", "contains-all", ["a", "d"], False),
        ("abc", "contains-all", "a, c", True),
        ("ABC", "icontains-all", ["a", "c"], True),
        ("abc", "contains-any", ["x", "c"], True),
        ("abc", "contains-any", ["x", "C"], False),
        ("abc", "icontains-any", "x,C", True),
        ("Blue, then", "starts-with", None, True),
        (" Blue", "starts-with", None, False),
        ("on 2026-12-01", "regex", r"\d{4}-\d\d", True),
        ("on Monday", "regex", r"\d", False),
        ("is Red", "regex", "^is {{colour}}$", True),
        ("one  two\nthree", "word-count", 3, True),
        ("one two", "word-count", 3, False),
        ("one two", "word-count", {"min": 2, "max": 3}, True),
        ("one", "word-count", {"min": 2}, False),
        ("one two", "word-count", {"max": 1}, False),
        ("", "word-count", 0, True),
    ],
)
def test_texts_that_pass_and_do_not(text: str, kind: str, value: Any, passed: bool) -> None:
    found = score(text, kind, value)
    assert (found.passed, found.decided) == (passed, True)
    assert bool(found.reason) is not passed


def test_quotation_marks_keep_a_comma_and_an_empty_value_is_none() -> None:
    assert score("in San Jose, CA", "contains-any", '"San Jose, CA", LA').passed
    assert not score("in San Jose", "contains-any", '"San Jose, CA", LA').passed
    assert not score("no", "contains-any", "yes, yeah,").passed


def test_a_part_of_several_values_is_a_part_of_the_score() -> None:
    found = score("abc", "contains-all", ["a", "b", "x", "y"])
    assert (found.passed, found.score, found.reason) == (False, 0.5, "It does not contain 'x', 'y'.")


@pytest.mark.parametrize(
    ("finish", "passed", "decided"), [("stop", True, True), ("length", False, True), (None, False, False)]
)
def test_how_an_answer_ended(finish: str | None, passed: bool, decided: bool) -> None:
    found = score(Answer("a", finish_reason=finish), "finish-reason", "stop")
    assert (found.passed, found.decided) == (passed, decided)


@pytest.mark.parametrize(
    ("logprob", "tokens", "passed", "value"),
    [(-4 * math.log(3), 4, True, 1 / 3), (-4 * math.log(6), 4, False, 1 / 6), (-1e9, 1, False, 0)],
)
def test_perplexity_of_its_own_answer(logprob: float, tokens: int, passed: bool, value: float) -> None:
    found = score(Answer("a", tokens=tokens, logprob=logprob), "perplexity", threshold=5)
    assert (found.passed, found.score) == (passed, pytest.approx(value))


@pytest.mark.parametrize("answer", [Answer("a"), Answer("a", tokens=0, logprob=0.0), Answer("a", tokens=3)])
def test_perplexity_needs_log_probabilities(answer: Answer) -> None:
    assert not score(answer, "perplexity", threshold=5).decided


@pytest.mark.parametrize(
    ("kind", "value", "more"),
    [
        ("regex", None, {}),
        ("regex", "(", {}),
        ("regex", "^(?!a)", {}),
        ("word-count", None, {}),
        ("word-count", -1, {}),
        ("word-count", True, {}),
        ("word-count", {}, {}),
        ("word-count", {"least": 1}, {}),
        ("word-count", {"min": 3, "max": 2}, {}),
        ("finish-reason", None, {}),
        ("perplexity", None, {}),
        ("perplexity", None, {"threshold": 0.5}),
    ],
)
def test_a_value_that_cannot_be_checked_is_refused(kind: str, value: Any, more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        score("a", kind, value, **more)
    assert refused.value.code == "bad-assertion"


@pytest.mark.parametrize(
    ("kind", "value"),
    [("contains", "{{town}}"), ("contains-any", []), ("contains-all", ""), ("regex", "{{bad}}")],
)
def test_a_row_that_cannot_be_checked_is_undecided(kind: str, value: Any) -> None:
    found = make_verifier({"type": kind, "value": value}, "x")(Answer("a"), {"expected": "", "bad": "("})
    assert (found.passed, found.decided) == (False, False)
    assert found.reason


def test_a_value_is_shown_short_on_one_line() -> None:
    assert shown("a\nb") == "'a b'"
    assert len(shown("a" * 1000)) < 70
