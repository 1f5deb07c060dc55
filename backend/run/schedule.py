"""The arithmetic of a run's length: its steps, and the learning rate at each of them."""

from __future__ import annotations

import math
from collections.abc import Callable

from backend.run.config import TrainingConfig


def resolve_steps(steps_or_share: float, total_steps: int) -> int:
    """Steps meant by a Hugging Face style setting: below 1 a share of ``total_steps``; 0 stays 0."""
    if steps_or_share <= 0:
        return 0
    if steps_or_share < 1:
        return max(1, round(steps_or_share * total_steps))
    return int(steps_or_share)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps in one pass; the last one may be smaller, no row is dropped."""
    return -(-rows // batch_size)


def total_steps(rows: int, training: TrainingConfig) -> int:
    """Optimizer steps of the whole run: max_steps where set, else the epochs, rounded up."""
    if training.max_steps > 0:
        return training.max_steps
    steps = training.num_train_epochs * steps_per_epoch(rows, training.rows_per_step)
    return max(1, math.ceil(round(steps, 6)))  # 1.1 * 50 is a little over 55


def learning_rate_factor(training: TrainingConfig, total_steps: int) -> Callable[[int], float]:
    """The factor on the peak learning rate for each 1-based step: linear warm-up, then the chosen shape to 0."""
    warmup = resolve_steps(training.warmup_steps, total_steps)
    kind = training.lr_scheduler_type

    def factor(step: int) -> float:
        if step <= warmup:
            return step / warmup
        if kind == "constant":
            return 1.0
        left = (total_steps - step + 1) / max(1, total_steps - warmup)
        return left if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))

    return factor
