"""Penalties, cuts, alternatives and the draw itself: backend/inference/sampling.py."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from backend.errors import InferenceError
from backend.inference.sampling import LIKELIEST, Sampler, Sampling, _cut, draw

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
    sampler = Sampler(Sampling(**penalties), [9, 9])

    assert [sampler.choose(LOGITS).token_id for _ in range(5)] == expected


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-9])
@pytest.mark.parametrize("cut", [{}, {"top_k": 3}, {"top_p": 0.5}, {"top_p": 5e-324}], ids=str)
def test_a_tiny_temperature_draws_the_likeliest(temperature: float, cut: dict[str, Any]) -> None:
    sampler = Sampler(Sampling(temperature=temperature, **cut), [])

    assert {sampler.choose(LOGITS.flip(0)).token_id for _ in range(9)} == {4}


def test_only_the_repetition_penalty_looks_at_the_prompt() -> None:
    assert Sampler(Sampling(repetition_penalty=4.0), [0]).choose(LOGITS).token_id == 1
    assert Sampler(Sampling(presence_penalty=2.0, frequency_penalty=2.0), [0]).choose(LOGITS).token_id == 0


def test_a_repetition_penalty_makes_an_unlikely_token_less_likely_too() -> None:
    sampler = Sampler(Sampling(repetition_penalty=4.0), [0])

    assert sampler.choose(torch.tensor([-1.0, -2.0])).token_id == 1


def test_logprobs_are_the_models_own_whatever_is_done_to_the_choice() -> None:
    own = LOGITS.log_softmax(-1).tolist()
    sampling = Sampling(temperature=3.0, presence_penalty=2.0, top_logprobs=2)

    chosen = [Sampler(sampling, [0], Only(3)).choose(LOGITS) for _ in range(2)][1]

    assert chosen.token_id == 3
    assert chosen.logprob == pytest.approx(own[3])
    assert [token for token, _ in chosen.top] == [0, 1]
    assert [value for _, value in chosen.top] == pytest.approx(own[:2])


def test_no_more_alternatives_than_tokens() -> None:
    assert len(Sampler(Sampling(top_logprobs=20), []).choose(LOGITS).top) == 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_matcher_has_the_last_word_and_hears_what_came(temperature: float) -> None:
    matcher = Only(2, 4)
    sampler = Sampler(Sampling(temperature=temperature, presence_penalty=-2.0), [1], matcher)

    came = [sampler.choose(LOGITS).token_id for _ in range(20)]

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
        ({"top_p": 0.6, "top_k": 2}, [0, 1, 0, 0, 0]),  # 0.4 of the 0.65 that top_k left are 0.62
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


@given(
    st.floats(0.2, 2.0), st.integers(0, 60), st.floats(0.05, 1.0), st.integers(5, 900), st.integers(0, 10**6)
)
def test_what_is_left_and_how_likely_is_as_in_transformers(
    temperature: float, top_k: int, top_p: float, size: int, seed: int
) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed)).double()
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(count) for count in [top_k] if count]
    warpers += [TopPLogitsWarper(share) for share in [top_p] if share < 1]
    expected = logits[None]
    for warper in warpers:
        expected = warper(None, expected)

    kept, order = _cut(torch.softmax(logits / temperature, -1), Sampling(top_k=top_k, top_p=top_p))
    ours = torch.zeros(size, dtype=torch.float64)
    ours[slice(None) if order is None else order] = kept

    assert torch.allclose(ours / ours.sum(), expected.softmax(-1)[0], atol=1e-9)


def test_of_many_equal_tokens_top_p_is_a_share_of_what_top_k_left() -> None:
    kept, _ = _cut(torch.full((1000,), 0.001, dtype=torch.float64), Sampling(top_k=50, top_p=0.5))

    assert int((kept > 0).sum()) in {25, 26}  # twenty-five fiftieths, but for the last bit


def test_a_prompt_and_a_seed_give_the_same_tokens_in_every_version() -> None:
    """Written down once: a change here changes what everybody's seeds give."""
    logits = torch.tensor([(token * 37 % 64) / 8 for token in range(64)])
    samplers = [
        Sampler(Sampling(temperature=1.0, seed=seed, top_k=40, top_p=0.9), [1, 2, 3]) for seed in (0, 7)
    ]

    assert [[sampler.choose(logits).token_id for _ in range(8)] for sampler in samplers] == GOLDEN


GOLDEN = [[19, 57, 62, 38, 62, 5, 38, 12], [19, 19, 17, 31, 62, 19, 43, 31]]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("matcher", [None, Only(0, 1, 2, 3)], ids=["free", "held to a form"])
def test_ids_that_stand_for_no_token_are_neither_drawn_nor_shown(
    temperature: float, matcher: Only | None
) -> None:
    known = torch.tensor([False, True, True, False, True])
    sampler = Sampler(Sampling(temperature=temperature, top_logprobs=5), [], matcher, known)

    chosen = [sampler.choose(LOGITS) for _ in range(40)]

    assert {choice.token_id for choice in chosen} <= {1, 2, 4}
    assert [token for token, _ in chosen[0].top] == [1, 2, 4]
    assert chosen[0].top[0][1] == pytest.approx(LOGITS.log_softmax(-1)[1])


def test_a_form_that_only_tokens_of_another_model_fit_is_said() -> None:
    with pytest.raises(InferenceError) as caught:
        Sampler(Sampling(), [], Only(99)).choose(LOGITS)

    assert caught.value.code == "bad-constraint"


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
