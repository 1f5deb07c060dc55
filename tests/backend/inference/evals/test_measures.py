"""How alike two texts are: backend/inference/evals/measures.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.inference.evals.measures import (
    bleu,
    bleu_tokens,
    common_subsequence,
    cosine,
    edit_distance,
    last_number,
    rouge_l,
    rouge_n,
    rouge_words,
    squad_normalised,
    token_f1,
)
from tests.house import ROOT

GOLDEN: list[dict[str, Any]] = json.loads(
    (ROOT / "tests/golden/text_scores.json").read_text(encoding="utf-8")
)
FEW = st.text(alphabet="abc", max_size=12)


def test_rouge_and_bleu_are_those_of_rouge_score_and_sacrebleu() -> None:
    assert len(GOLDEN) > 300
    for pair in GOLDEN:
        texts = pair["said"], pair["wanted"]
        ours = {
            "rouge1": rouge_n(*texts),
            "rouge2": rouge_n(*texts, 2),
            "rougeL": rouge_l(*texts),
            "bleu": bleu(*texts),
        }
        assert {name: pair[name] for name in ours} == pytest.approx(ours, abs=1e-12), texts


def distance_by_table(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        left, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            left, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, left + (a != b))
    return row[-1]


@given(FEW, FEW)
def test_the_edit_distance_is_that_of_the_table(one: str, other: str) -> None:
    assert edit_distance(one, other) == distance_by_table(one, other)


@given(FEW, FEW, FEW)
def test_the_edit_distance_is_a_distance(one: str, other: str, third: str) -> None:
    assert edit_distance(one, other) == edit_distance(other, one)
    assert (edit_distance(one, other) == 0) == (one == other)
    assert edit_distance(one, third) <= edit_distance(one, other) + edit_distance(other, third)


@given(FEW, FEW)
def test_a_common_subsequence_and_insertions_make_both(one: str, other: str) -> None:
    """Without replacements, the distance is what is left of both."""
    shared = common_subsequence(list(one), list(other))
    assert shared == common_subsequence(list(other), list(one))
    assert max(0, edit_distance(one, other)) <= len(one) + len(other) - 2 * shared
    assert common_subsequence(list(one), list(one + other)) == len(one)


@given(st.text(max_size=30), st.text(max_size=30))
def test_every_measure_is_a_share_and_whole_for_the_same(one: str, other: str) -> None:
    for measure in (token_f1, rouge_n, rouge_l, bleu):
        assert 0 <= measure(one, other) <= 1 + 1e-12
    assert token_f1(one, one) == 1
    assert bleu(one, one) == pytest.approx(float(bool(bleu_tokens(one))))
    assert rouge_l(one, one) == float(bool(rouge_words(one)))


def test_words_of_every_script_count() -> None:
    assert rouge_words("Grüße, Ёлка! 3_4") == ["grüße", "ёлка", "3", "4"]


@pytest.mark.parametrize(
    ("said", "wanted", "f1"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0),
        ("in Paris, France", "Paris", 0.5),
        ("Rome", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("the", "a", 1.0),
        ("a b b", "b b b", 2 * 2 / (2 + 3)),
    ],
)
def test_the_f1_of_squad(said: str, wanted: str, f1: float) -> None:
    assert token_f1(said, wanted) == pytest.approx(f1)


def test_texts_are_normalised_as_squad_does() -> None:
    assert squad_normalised("  An Apple-pie, the  THEME.") == "applepie theme"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 42.", 42),
        ("1,234,567.5 dollars", 1234567.5),
        ("first 3, then -4", -4),
        ("5-3", 3),
        ("\N{MINUS SIGN}7", -7),
        ("$1.50!", 1.5),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("+8", 8),
        ("12%", 12),
        ("version v2", None),
        ("", None),
        ("9" * 400, None),
        ("#### 18", 18),
    ],
)
def test_the_last_number_of_a_text(text: str, number: float | None) -> None:
    assert last_number(text) == number


def test_the_cosine_of_two_vectors() -> None:
    assert cosine([1, 0], [2, 0]) == pytest.approx(1)
    assert cosine([1, 0], [0, 2]) == 0
    assert cosine([3, 4], [-3, -4]) == pytest.approx(-1)
    assert cosine([0, 0], [1, 1]) == 0
