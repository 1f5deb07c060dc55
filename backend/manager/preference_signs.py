"""What the curves of a preference run say, in sentences: undecided, known by heart, both answers made unlikely."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from backend.run.metrics import (
    ACCURACIES,
    KL,
    REWARDS_CHOSEN,
    REWARDS_REJECTED,
    TRAIN_LOSS,
    number,
)
from backend.utils.interval_utils import score_interval

LATEST = 10
"""Steps whose mean is looked at: a single step has too few pairs."""
BY_HEART_LOSS, BY_HEART_SHARE = 0.05, 0.99
SMALL_KL = 0.1
"""A mean log-ratio below this, in nats an answer, is next to nothing."""
FELL = -0.1
"""A reward below this is no rounding: the answers have become less likely than before training."""


def preference_signs(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what the lines of ``metrics.jsonl`` say about a preference run; empty for other methods."""
    steps, evaluations = [], []
    for record in records:
        if f"train/{REWARDS_CHOSEN}" in record:
            steps.append(record)
        elif f"eval/{ACCURACIES}" in record:
            evaluations.append(record)
    latest = steps[-LATEST:]
    return [
        *_start(steps[:1]),
        *_rewards(latest),
        *_by_heart(latest),
        *_kl(latest),
        *_held_out(evaluations[-1:]),
    ]


def _start(first: list[Mapping[str, Any]]) -> Iterator[str]:
    if _is_near(_mean(first, TRAIN_LOSS), math.log(2)):
        yield "The loss starts at 0.693 (ln 2): the model is undecided between both answers."


def _is_near(value: float, other: float) -> bool:
    return abs(value - other) < 0.001


def _rewards(latest: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what the rewards say if both answers are less likely than before training."""
    chosen, rejected = (_mean(latest, f"train/{name}") for name in (REWARDS_CHOSEN, REWARDS_REJECTED))
    if not (chosen < FELL and rejected < FELL):
        return
    if chosen > rejected:
        yield (
            f"The better answers become less likely too (reward {chosen:.2g}), only less so than the worse ones "
            f"(reward {rejected:.2g}): likelihood displacement. If what the model says gets worse, lower "
            "training.learning_rate, or add sft to objective.loss_type."
        )
    else:
        yield (
            f"Both answers become less likely (rewards {chosen:.2g} and {rejected:.2g}), and the better one is not "
            "preferred: lower training.learning_rate."
        )


def _by_heart(latest: list[Mapping[str, Any]]) -> Iterator[str]:
    loss, share = _mean(latest, TRAIN_LOSS), _mean(latest, f"train/{ACCURACIES}")
    if loss < BY_HEART_LOSS and share >= BY_HEART_SHARE:
        yield (
            f"The loss is near 0 and the better answer is preferred {share:.0%}: the pairs are known by heart. Only "
            "held-out pairs say whether more was learned."
        )


def _kl(latest: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what the KL of KTO says: it is the point that rewards are judged against, 0 where nothing has moved."""
    kl = _mean(latest, f"train/{KL}")
    if math.isnan(kl):
        return
    moved = (
        "the model still answers much as before training"
        if kl < SMALL_KL
        else (
            f"answers to other questions have become {math.exp(min(kl, 50.0)):.2g} times as likely: if this goes on "
            "rising, lower training.learning_rate"
        )
    )
    yield f"KL {kl:.2g} nats: {moved}. Good answers are pushed above this point, bad ones below it."


def _held_out(last: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield whether the better held-out answer is preferred more often than by chance."""
    for record in last:
        share, rows = number(record[f"eval/{ACCURACIES}"]), record.get("rows")
        if not isinstance(rows, int) or rows < 1 or math.isnan(share):
            continue
        low, high = score_interval(round(share * rows), rows)
        known = "more often than by chance" if low > 0.5 else "not proved better than chance"
        yield (
            f"Held-out pairs: the better answer is preferred in {share:.0%} of {rows:,} "
            f"({max(0.0, low):.0%} to {min(1.0, high):.0%}, 95 % interval), {known}."
        )


def _mean(steps: list[Mapping[str, Any]], name: str) -> float:
    """Return the mean of a measurement where it is a number; NaN without one."""
    values = [value for value in (number(step.get(name)) for step in steps) if math.isfinite(value)]
    return statistics.fmean(values) if values else math.nan
