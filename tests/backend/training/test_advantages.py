"""Advantages and normalisers: TRL's own numbers, and the laws that they keep for any rewards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.training.advantages import Scale, advantages, flat, mean, std, token_weights

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "grpo.json").read_text(encoding="utf-8"))
NAN = float("nan")
GROUPS = st.lists(
    st.lists(st.floats(-5, 5).map(lambda value: round(value, 3)), min_size=3, max_size=3),
    min_size=1,
    max_size=5,
)


def golden_rewards() -> np.ndarray:
    """The weighted sums of TRL's golden rewards, float64 [prompts, generations]."""
    values = np.array(GOLDEN["rewards"], dtype=np.float64)
    known = ~np.isnan(values)
    summed = np.where(known, values, 0.0) @ np.array(GOLDEN["weights"])
    return np.where(known.any(1), summed, NAN).reshape(-1, GOLDEN["generations"])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_they_are_those_of_trl(scale: Scale) -> None:
    found = advantages(golden_rewards(), scale)
    np.testing.assert_allclose(
        found.ravel(), GOLDEN["advantages"][scale], rtol=1e-6
    )  # TRL divides counts in float32


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_rewards_are_worth_exactly_nothing(scale: Scale) -> None:
    rewards = np.array([[0.1, 0.1, 0.1], [0.3, 0.1, 0.2]])
    found = advantages(rewards, scale)
    assert found[0].tolist() == [0.0, 0.0, 0.0]
    assert flat(rewards).tolist() == [True, False]
    assert np.abs(found[1]).max() > 0


def test_an_answer_that_nothing_is_known_of_neither_counts_nor_learns() -> None:
    rewards = np.array([[1.0, NAN, 0.0], [NAN, NAN, NAN], [NAN, 0.5, NAN]])
    assert advantages(rewards, "none").tolist() == [[0.5, 0.0, -0.5], [0.0] * 3, [0.0] * 3]
    assert flat(rewards).tolist() == [False, True, True]


@given(GROUPS)
def test_the_advantages_of_a_group_add_up_to_nothing(groups: list[list[float]]) -> None:
    found = advantages(np.array(groups), "group")
    np.testing.assert_allclose(found.sum(1), 0.0, atol=1e-9)


@given(GROUPS, st.floats(-3, 3))
def test_a_constant_added_to_every_reward_changes_nothing(groups: list[list[float]], shift: float) -> None:
    rewards = np.array(groups)
    np.testing.assert_allclose(advantages(rewards + shift, "none"), advantages(rewards, "none"), atol=1e-9)


def test_standard_deviation_and_mean_leave_out_what_is_not_known() -> None:
    values = np.array([[1.0, 3.0, NAN]])
    assert std(values).item() == pytest.approx(np.sqrt(2))
    assert mean(values) == 2.0
    assert np.isnan(mean(np.array([NAN])))
    assert std(np.array([[4.0]])).item() == 0.0


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [("grpo", [1 / 4, -1 / 8, 0.0]), ("dapo", [2 / 6, -1 / 6, 0.0]), ("dr_grpo", [2 / 24, -1 / 24, 0.0])],
)
def test_each_loss_has_its_normaliser(loss_type: str, expected: list[float]) -> None:
    lengths = np.array([2, 2, 2])
    found = token_weights(np.array([2.0, -1.0, 0.0]), lengths, np.array([True] * 3), loss_type, 8)
    scale = {"grpo": 4 / 3, "dapo": 1.0, "dr_grpo": 1.0}[loss_type]
    np.testing.assert_allclose(found, np.array(expected) * scale)


def test_answers_that_were_cut_off_weigh_nothing_and_count_in_dapo_no_tokens() -> None:
    learned = np.array([True, False])
    found = token_weights(np.array([1.0, -1.0]), np.array([4, 9]), learned, "dapo", 9)
    assert found.tolist() == [1 / 4, 0.0]
    nothing = token_weights(np.array([1.0]), np.array([9]), np.array([False]), "dapo", 9)
    assert nothing.tolist() == [0.0]
