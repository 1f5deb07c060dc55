"""Checks that compare with the expected answer: backend/inference/evals/likeness.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from backend.errors import ConfigError
from backend.inference.evals.assertions import Means, make_verifier
from backend.inference.evals.verdicts import Answer, Score

ROW = {"prompt": "p", "expected": "the quick brown fox jumps"}


def score(text: str, kind: str, row: Any = None, **more: Any) -> Score:
    return make_verifier({"type": kind, **more}, "x")(Answer(text), row or ROW)


@pytest.mark.parametrize("kind", ["rouge-n", "rouge-2", "rouge-l", "bleu", "f-score"])
def test_a_measure_passes_from_its_threshold_on(kind: str) -> None:
    found = score("the quick brown dog jumps", kind)
    assert 0 < found.score < 1
    assert score("the quick brown dog jumps", kind, threshold=found.score).passed
    assert not score("the quick brown dog jumps", kind, threshold=min(1, found.score + 0.01)).passed
    assert score(ROW["expected"], kind) == Score(True, pytest.approx(1.0), "")


@pytest.mark.parametrize("kind", ["rouge-n", "bleu", "f-score", "similar"])
def test_a_threshold_is_a_share(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"x\.threshold"):
        score("a", kind, threshold=2)


@pytest.mark.parametrize(
    ("text", "more", "passed", "share"),
    [
        ("kitten", {"value": "sitting"}, True, 1 - 3 / 7),
        ("kitten", {"value": "sitting", "threshold": 2}, False, 1 - 3 / 7),
        ("", {"value": "abcdef"}, False, 0.0),
        ("a", {"value": "a", "threshold": 0}, True, 1.0),
    ],
)
def test_letters_that_differ(text: str, more: dict[str, Any], passed: bool, share: float) -> None:
    found = score(text, "levenshtein", **more)
    assert (found.passed, found.score) == (passed, pytest.approx(share))


@pytest.mark.parametrize(
    ("text", "passed"), [("Quick brown fox: jumps", True), ("The quick fox jumps", False), ("", False)]
)
def test_a_normalised_match(text: str, passed: bool) -> None:
    assert score(text, "normalised-match").passed is passed


@pytest.mark.parametrize(
    ("text", "expected", "tolerance", "passed"),
    [
        ("so it is 1,000.0", "1000", None, True),
        ("1001", "1000", None, False),
        ("1001", "1000", 1, True),
        ("999 or 998.9", "1000", 1, False),
        ("none", "1000", 1, False),
    ],
)
def test_numbers_within_a_tolerance(text: str, expected: str, tolerance: float | None, passed: bool) -> None:
    found = score(text, "numeric", {"expected": expected}, threshold=tolerance)
    assert (found.passed, found.decided) == (passed, True)


def test_a_number_that_is_not_expected() -> None:
    assert not score("3", "numeric").decided
    with pytest.raises(ConfigError, match=r"x\.threshold"):
        score("3", "numeric", threshold=-1)


def by_length(texts: Sequence[str]) -> list[list[float]]:
    return [[len(text), 5.0] for text in texts]


def test_texts_are_similar_by_their_vectors() -> None:
    check = make_verifier({"type": "similar", "value": "12345"}, "x", Means(embed=by_length))
    assert check(Answer("54321"), ROW) == Score(True, pytest.approx(1.0), "")
    far = check(Answer(""), ROW)
    assert (far.passed, far.score) == (False, pytest.approx(0.5**0.5))
    assert not score("a", "similar").decided


@pytest.mark.parametrize("kind", ["levenshtein", "bleu", "rouge-l", "f-score", "normalised-match", "numeric"])
def test_a_huge_text_is_not_measured(kind: str) -> None:
    found = score("x" * 1_000_000, kind)
    assert (found.passed, found.decided) == (False, False)
    assert not score("x", kind, {"expected": "1" * 1_000_000}).decided
