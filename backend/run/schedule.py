"""The number of steps of a run, and the learning rate at each."""

from __future__ import annotations

import math
from collections.abc import Callable

from backend.run.config import TrainingConfig


def resolve_steps(steps_or_share: float, total_steps: int) -> int:
    """Return the steps of a Hugging Face style setting: below 1 it is a share of ``total_steps``; 0 stays 0."""
    if steps_or_share <= 0:
        return 0
    if steps_or_share < 1:
        return max(1, round(steps_or_share * total_steps))
    return int(steps_or_share)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Return the optimizer steps of one epoch; the last one may have fewer rows, none is dropped."""
    return -(-rows // batch_size)


def total_steps(rows: int, training: TrainingConfig) -> int:
    """Return the optimizer steps of the whole run: max_steps if set, else the epochs, rounded up."""
    if training.max_steps > 0:
        return training.max_steps
    steps = training.num_train_epochs * steps_per_epoch(rows, training.rows_per_step)
    return max(1, math.ceil(round(steps, 6)))  # 1.1 * 50 is a little over 55


def learning_rate_factor(training: TrainingConfig, total_steps: int) -> Callable[[int], float]:
    """Return the factor on the peak learning rate by step, counted from 1: linear warm-up, then the chosen shape.

    After warm-up each shape is that of ``transformers.get_scheduler`` under the same name.
    """
    warmup = resolve_steps(training.warmup_steps, total_steps)
    after = max(1, total_steps - warmup)
    timescale = warmup or 10_000  # as transformers chooses it
    decay = max(1, min(after, resolve_steps(training.num_decay_steps, total_steps)))
    least = training.min_lr_rate
    shapes: dict[
        str, Callable[[float, int], float]
    ] = {  # of the share of steps left, 1 to almost 0, and those done
        "constant": lambda _left, _done: 1.0,
        "linear": lambda left, _done: left,
        "cosine": lambda left, _done: _half_cosine(left),
        "cosine_with_min_lr": lambda left, _done: least + (1.0 - least) * _half_cosine(left),
        "polynomial": lambda left, _done: left**training.polynomial_power,
        "inverse_sqrt": lambda _left, done: 1.0 / math.sqrt(1.0 + done / timescale),
        "warmup_stable_decay": lambda left, _done: (
            least + (1.0 - least) * _half_cosine(min(1.0, left * after / decay))
        ),
    }
    shape = shapes[training.lr_scheduler_type]

    def factor(step: int) -> float:
        if step <= warmup:
            return step / warmup
        return shape((total_steps - step + 1) / after, step - 1 - warmup)

    return factor


def _half_cosine(left: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))
