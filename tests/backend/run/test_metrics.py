"""The measurements of a run: backend/run/metrics.py."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from backend.run.metrics import (
    EVAL_LOSS,
    EXACT_MATCH,
    FORGETTING_LOSS,
    LEARNING_RATE,
    TRAIN_LOSS,
    UNDECIDED,
    best_step,
    forgetting_words,
    held_out_losses,
    is_better,
    metrics_record,
    metrics_scalars,
    number,
    preference_words,
    reward_words,
)
from backend.run.reports import EvalReport, StepReport

STEP = StepReport(3, 10, 0.3, 1.25, 0.5, 1.25e-6, 100, 40, 2.0, 300, rows=("row 1",))
EVAL = EvalReport(3, 0.3, 1.5, 40, 4, 0.5)


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({"rewards/accuracies": 0.83, "rewards/margins": 0.9}, "prefers the better answer 83% · margin 0.9"),
        ({"rewards/margins": 0.9}, "margin 0.9"),  # kto has no pairs
        ({"rewards/accuracies": 0.0, "rewards/margins": 0.0}, UNDECIDED),
        ({"rewards/accuracies": 0.0, "rewards/margins": -1.0}, "prefers the better answer 0% · margin -1"),
        ({}, ""),
    ],
)
def test_preferences_in_words(measured: dict[str, float], words: str) -> None:
    assert preference_words(measured) == words
    assert preference_words({f"eval/{name}": value for name, value in measured.items()}, "eval/") == words


def test_w22_a_small_learning_rate_keeps_its_digits() -> None:
    assert metrics_record(STEP)[LEARNING_RATE] == 1.25e-6


def test_a_step_is_one_line_of_numbers() -> None:
    record = metrics_record(STEP)
    assert (record["kind"], record["step"], record["total_steps"]) == ("train", 3, 10)
    assert record[TRAIN_LOSS] == 1.25
    assert not any(isinstance(value, list | tuple | dict) for value in record.values())


def test_an_evaluation_is_one_line_of_numbers() -> None:
    record = metrics_record(EVAL)
    assert (record["kind"], record["step"], record[EVAL_LOSS]) == ("eval", 3, 1.5)
    assert EXACT_MATCH not in record
    assert metrics_scalars(replace(EVAL, exact_match=0.75))[EXACT_MATCH] == 0.75


def test_the_tags_are_those_that_tensorboard_users_expect() -> None:
    tags = {*metrics_scalars(STEP), *metrics_scalars(replace(EVAL, exact_match=1.0))}
    assert {TRAIN_LOSS, EVAL_LOSS, EXACT_MATCH, LEARNING_RATE} <= tags
    assert {tag.partition("/")[0] for tag in tags} == {"train", "eval"}


@pytest.mark.parametrize(
    ("value", "read"), [(1, 1.0), (0.5, 0.5), ("0.5", 0.5), ("Infinity", math.inf), ("NaN", math.nan)]
)
def test_a_figure_is_a_number_or_text_that_stands_for_one(value: object, read: float) -> None:
    assert number(value) == pytest.approx(read, nan_ok=True)


@pytest.mark.parametrize("value", [None, "many", [], {}])
def test_anything_else_is_no_number(value: object) -> None:
    assert math.isnan(number(value))


def test_the_held_out_losses_are_those_of_the_evaluations() -> None:
    lines = [
        metrics_record(STEP),
        metrics_record(EVAL),
        {"step": 4, EVAL_LOSS: "NaN"},
        {"step": "5", EVAL_LOSS: 1.0},
        {EVAL_LOSS: 1.0},
    ]
    assert held_out_losses(lines) == {3: 1.5, 4: math.inf}
    assert held_out_losses([]) == {}


def test_a_loss_that_is_seen_again_is_the_later_one() -> None:
    lines = [{"step": step, EVAL_LOSS: loss} for step, loss in [(10, 0.1), (10, 0.9), (20, 0.5), (20, "NaN")]]
    assert held_out_losses(lines) == {10: 0.9, 20: math.inf}


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ({0: 0.1, 10: 0.5, 20: 0.7}, 10),
        ({20: 0.5, 10: 0.5}, 10),
        ({10: math.inf, 20: 0.7}, 20),
        ({10: math.nan}, None),
        ({0: 0.1}, None),
        ({}, None),
    ],
    ids=["not the untrained model", "the first of equals", "finite", "not finite", "untrained alone", "none"],
)
def test_the_best_step_is_that_of_the_lowest_held_out_loss(
    losses: dict[int, float], best: int | None
) -> None:
    assert best_step(losses) == best


@pytest.mark.parametrize(("step", "loss", "best"), [(0, 0.1, None), (1, math.nan, None), (2, 0.5, 0.5)])
def test_what_is_no_better(step: int, loss: float, best: float | None) -> None:
    assert not is_better(step, loss, best)
    assert is_better(3, 0.4, best)


class TestForgetting:
    RECORDS = (
        {"step": 0, FORGETTING_LOSS: 2.911},
        {"step": 4, "train/loss": 1.0},
        {"step": 4, FORGETTING_LOSS: 3.1},
        {"step": 8, FORGETTING_LOSS: 2.984},
    )

    def test_the_loss_before_training_and_that_of_the_result(self) -> None:
        assert forgetting_words(self.RECORDS, 8) == "Loss on general texts: 2.91 → 2.98 nats per token."
        assert forgetting_words(self.RECORDS, 4).endswith("2.91 → 3.10 nats per token.")

    def test_nothing_where_either_is_missing(self) -> None:
        assert forgetting_words(self.RECORDS, 5) == forgetting_words(self.RECORDS[1:], 8) == ""
        assert forgetting_words(self.RECORDS, 0) == forgetting_words([], 3) == ""


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({}, ""),
        ({"reward": 0.51234}, "reward 0.512"),
        ({"reward": 1, "frac_reward_zero_std": 0.25}, "reward 1.000 · 25% of groups flat"),
    ],
)
def test_rewards_in_words(measured: dict[str, float], words: str) -> None:
    assert reward_words(measured) == words
    assert reward_words({f"train/{name}": value for name, value in measured.items()}, "train/") == words


def test_an_evaluation_without_a_loss_has_none_among_its_curves() -> None:
    report = EvalReport(3, 0.3, None, 0, 4, 0.5, measured={"reward": 0.5})
    assert metrics_scalars(report) == {"eval/reward": 0.5}
