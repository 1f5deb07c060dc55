"""Probabilities along an answer, against a model's own numbers: backend/inference/logprobs.py."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.inference.logprobs import answer_logprobs, divergence, first_difference, token_scores
from tests.tiny import tiny_model

PROMPT, ANSWER = [5, 6, 7, 8], [9, 300, 2]


def test_probabilities_are_the_models_own_at_each_place() -> None:
    model = tiny_model(initializer_range=0.3)
    with torch.no_grad():
        whole = model(torch.tensor([PROMPT + ANSWER])).logits[0].log_softmax(-1)

    found = answer_logprobs(model, PROMPT, ANSWER)

    assert torch.allclose(found, whole[3:6], atol=1e-5)


def test_each_token_is_judged_where_it_stands() -> None:
    logprobs = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log()

    first, second = token_scores(logprobs, [1, 2], top=2)

    assert first.logprob == pytest.approx(math.log(0.25))
    assert first.entropy == pytest.approx(1.5 * math.log(2))
    assert first.top[0][0] == 0
    assert second.top[0] == (2, pytest.approx(math.log(0.8)))


def test_none_of_the_likeliest_may_be_wanted() -> None:
    assert [each.top for each in token_scores(torch.zeros(2, 3).log_softmax(-1), [0, 1], top=0)] == [(), ()]


def test_certainty_has_no_entropy() -> None:
    (one,) = token_scores(torch.tensor([[0.0, -torch.inf]]), [0], top=1)

    assert one.entropy == 0


@given(st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=1, max_size=3))
def test_divergence_is_zero_from_itself_and_never_below(rows: list[list[float]]) -> None:
    first = torch.tensor(rows).log_softmax(-1)
    second = torch.tensor(rows).flip(1).log_softmax(-1)

    assert divergence(first, first) == [0.0] * len(rows)
    assert min(divergence(first, second)) >= 0


def test_divergence_by_hand() -> None:
    sure, even = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()

    assert divergence(sure, even) == [pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 2], [1, 2], None),
        ([1, 2], [1, 3], 1),
        ([1], [1, 2], 1),
        ([1, 2], [1], 1),
        ([], [], None),
        ([], [1], 0),
    ],
)
def test_where_two_answers_part(one: list[int], other: list[int], expected: int | None) -> None:
    assert first_difference(one, other) == expected
