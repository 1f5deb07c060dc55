"""Penalties, cuts, alternatives and the draw itself: backend/core/sampling.py."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from backend.core.sampling import LIKELIEST, Chooser, Sampling, draw
from backend.errors import InferenceError

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, -2.0])


class Only:
    """Allows some tokens, and remembers what came."""

    def __init__(self, *tokens: int) -> None:
        self.tokens, self.came = tokens, list[int]()

    def allowed(self, size: int) -> Tensor:
        return torch.tensor([token in self.tokens for token in range(size)])

    def accept(self, token_id: int) -> None:
        self.came.append(token_id)


@pytest.mark.parametrize(
    ("penalties", "expected"),
    [
        ({"presence_penalty": 1.6}, [0, 1, 2, 0, 0]),
        ({"frequency_penalty": 0.6}, [0, 0, 1, 0, 2]),
        ({"repetition_penalty": 2.5}, [0, 1, 0, 0, 0]),
        ({}, [0, 0, 0, 0, 0]),
        ({"presence_penalty": -2.0}, [0, 0, 0, 0, 0]),
    ],
    ids=str,
)
def test_penalties_turn_the_choice_away_from_what_was_said(
    penalties: dict[str, float], expected: list[int]
) -> None:
    chooser = Chooser(Sampling(**penalties), [9, 9])

    assert [chooser.choose(LOGITS).token_id for _ in range(5)] == expected


def test_only_the_repetition_penalty_looks_at_the_prompt() -> None:
    assert Chooser(Sampling(repetition_penalty=4.0), [0]).choose(LOGITS).token_id == 1
    assert Chooser(Sampling(presence_penalty=2.0, frequency_penalty=2.0), [0]).choose(LOGITS).token_id == 0


def test_a_repetition_penalty_makes_an_unlikely_token_less_likely_too() -> None:
    chooser = Chooser(Sampling(repetition_penalty=4.0), [0])

    assert chooser.choose(torch.tensor([-1.0, -2.0])).token_id == 1


def test_logprobs_are_the_models_own_whatever_is_done_to_the_choice() -> None:
    own = LOGITS.log_softmax(-1).tolist()
    sampling = Sampling(temperature=3.0, presence_penalty=2.0, top_logprobs=2)

    chosen = [Chooser(sampling, [0], Only(3)).choose(LOGITS) for _ in range(2)][1]

    assert chosen.token_id == 3
    assert chosen.logprob == pytest.approx(own[3])
    assert [token for token, _ in chosen.top] == [0, 1]
    assert [value for _, value in chosen.top] == pytest.approx(own[:2])


def test_no_more_alternatives_than_tokens() -> None:
    assert len(Chooser(Sampling(top_logprobs=20), []).choose(LOGITS).top) == 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_matcher_has_the_last_word_and_hears_what_came(temperature: float) -> None:
    matcher = Only(2, 4)
    chooser = Chooser(Sampling(temperature=temperature, presence_penalty=-2.0), [1], matcher)

    came = [chooser.choose(LOGITS).token_id for _ in range(20)]

    assert matcher.came == came
    assert set(came) <= {2, 4}


FIVE = torch.log(torch.tensor([0.05, 0.4, 0.25, 0.2, 0.1]))
"""Five tokens; by likelihood 1, 2, 3, 4, 0."""


def _shares(sampling: Sampling, draws: int = 1500) -> list[float]:
    """How often each of the five tokens is drawn."""
    generator = torch.Generator().manual_seed(1)
    counts = Counter(draw(FIVE, sampling, generator) for _ in range(draws))
    return [counts[token] / draws for token in range(5)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.05, 0.4, 0.25, 0.2, 0.1]),
        ({"top_k": 2}, [0, 0.4 / 0.65, 0.25 / 0.65, 0, 0]),
        ({"top_k": 5}, [0.05, 0.4, 0.25, 0.2, 0.1]),
        ({"top_k": 99}, [0.05, 0.4, 0.25, 0.2, 0.1]),
        ({"top_p": 0.39}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.5}, [0, 0.4 / 0.65, 0.25 / 0.65, 0, 0]),
        ({"top_p": 0.9}, [0, 0.4 / 0.95, 0.25 / 0.95, 0.2 / 0.95, 0.1 / 0.95]),
        ({"top_p": 0.8, "top_k": 2}, [0, 0.4 / 0.65, 0.25 / 0.65, 0, 0]),
        ({"temperature": 0.5}, [0.0025 / 0.275, 0.16 / 0.275, 0.0625 / 0.275, 0.04 / 0.275, 0.01 / 0.275]),
        ({"temperature": 100.0}, [0.2, 0.2, 0.2, 0.2, 0.2]),
    ],
    ids=str,
)
def test_tokens_come_as_often_as_the_settings_say(settings: dict[str, Any], expected: list[float]) -> None:
    shares = _shares(Sampling(**({"temperature": 1.0} | settings)))

    assert shares == pytest.approx(expected, abs=0.05)
    assert [share == 0 for share in shares] == [share == 0 for share in expected]


@given(share=st.floats(0.05, 1.0), scale=st.floats(0.05, 4.0), seed=st.integers(0, 9))
def test_sorting_only_the_likeliest_changes_nothing(share: float, scale: float, seed: int) -> None:
    logits = torch.randn(LIKELIEST * 2, generator=torch.Generator().manual_seed(seed)) * scale
    probabilities, order = torch.softmax(logits.double(), -1).sort(descending=True)
    kept = probabilities * (probabilities.cumsum(-1) - probabilities < share)
    allowed = set(order[kept > 0].tolist())
    generator = torch.Generator().manual_seed(seed)

    drawn = {draw(logits, Sampling(temperature=1.0, top_p=share), generator) for _ in range(50)}

    assert drawn <= allowed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", -1),
        ("max_new_tokens", 2**20 + 1),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", "5"),
        ("temperature", None),
        ("temperature", "1"),
        ("top_k", 1.5),
        ("seed", 0.5),
        ("temperature", -0.1),
        ("temperature", 100.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", -1.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_k", -1),
        ("seed", -1),
        ("seed", 2**63),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.nan),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("frequency_penalty", math.nan),
        ("top_logprobs", -1),
        ("top_logprobs", 21),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InferenceError, match=f"{name} is {value}") as caught:
        Sampling(**{name: value})

    assert (caught.value.code, bool(caught.value.remedy)) == ("bad-sampling", True)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 1},
        {"max_new_tokens": 2**20},
        {"temperature": 100.0},
        {"top_p": 1.0},
        {"top_k": 0},
        {"seed": 2**63 - 1},
    ],
)
def test_settings_at_their_bounds_are_taken(settings: dict[str, Any]) -> None:
    assert Sampling(**settings)
