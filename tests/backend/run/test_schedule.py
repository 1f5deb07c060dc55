"""Steps and learning rates of a run, as pure functions: backend/run/schedule.py."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from backend.run.config import TrainingConfig
from backend.run.schedule import learning_rate_factor, resolve_steps, steps_per_epoch, total_steps

KINDS = get_args(TrainingConfig.model_fields["lr_scheduler_type"].annotation)


@given(
    kind=st.sampled_from(KINDS),
    total=st.integers(1, 300),
    warmup=st.one_of(st.integers(0, 300), st.floats(0, 0.99)),
)
def test_the_rate_rises_to_its_peak_and_never_again(kind: str, total: int, warmup: float) -> None:
    factor = learning_rate_factor(TrainingConfig(lr_scheduler_type=kind, warmup_steps=warmup), total)
    steps = resolve_steps(warmup, total)

    values = [factor(step) for step in range(1, total + 1)]

    assert all(0 < value <= 1 for value in values)
    assert values[:steps] == [step / steps for step in range(1, min(steps, total) + 1)]
    after = values[max(0, steps - 1) :]
    assert after == sorted(after, reverse=True)


@pytest.mark.parametrize(
    ("kind", "warmup", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1]),
        ("constant", 2, [0.5, 1, 1, 1]),
        ("linear", 0, [1, 0.75, 0.5, 0.25]),
        ("linear", 2, [0.5, 1, 1, 0.5]),
        ("linear", 0.5, [0.5, 1, 1, 0.5]),
        ("linear", 4, [0.25, 0.5, 0.75, 1]),
        ("linear", 8, [0.125, 0.25, 0.375, 0.5]),
        ("cosine", 0, [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
        ("cosine", 2, [0.5, 1, 1, 0.5]),
    ],
)
def test_four_steps_have_these_factors(kind: str, warmup: float, expected: list[float]) -> None:
    factor = learning_rate_factor(TrainingConfig(lr_scheduler_type=kind, warmup_steps=warmup), 4)

    assert [factor(step) for step in range(1, 5)] == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_step_after_the_last_would_be_at_zero(kind: str) -> None:
    factor = learning_rate_factor(TrainingConfig(lr_scheduler_type=kind, warmup_steps=3), 50)

    assert factor(51) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        (32, {"num_train_epochs": 2}, 4),
        (33, {"num_train_epochs": 2}, 6),
        (800, {"num_train_epochs": 1.1}, 55),
        (800, {"num_train_epochs": 1.11}, 56),
        (1, {"num_train_epochs": 0.001}, 1),
        (160, {"num_train_epochs": 3, "max_steps": 7}, 7),
        (160, {"num_train_epochs": 3, "max_steps": 0}, 30),
        (32, {"num_train_epochs": 1, "gradient_accumulation_steps": 2}, 1),
        (5, {"num_train_epochs": 1, "per_device_train_batch_size": 1}, 5),
    ],
)
def test_steps_are_counted_from_rows_and_epochs_or_told(
    rows: int, settings: dict[str, float], expected: int
) -> None:
    assert total_steps(rows, TrainingConfig(**settings)) == expected


@pytest.mark.parametrize(
    ("rows", "batch_size", "expected"), [(1, 16, 1), (16, 16, 1), (17, 16, 2), (32, 16, 2), (5, 1, 5)]
)
def test_steps_of_an_epoch_count_the_last_small_one(rows: int, batch_size: int, expected: int) -> None:
    assert steps_per_epoch(rows, batch_size) == expected


@pytest.mark.parametrize(
    ("steps_or_share", "total", "steps"),
    [(0, 100, 0), (-1, 100, 0), (0.1, 100, 10), (0.25, 10, 2), (0.001, 10, 1), (1, 100, 1), (7.0, 5, 7)],
)
def test_steps_or_a_share_of_them(steps_or_share: float, total: int, steps: int) -> None:
    assert resolve_steps(steps_or_share, total) == steps


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        ("constant_with_warmup", {}, {}),
        ("linear", {}, {}),
        ("cosine", {}, {}),
        ("cosine_with_min_lr", {"min_lr_rate": 0.25}, {"min_lr_rate": 0.25}),
        ("polynomial", {"polynomial_power": 2.0}, {"power": 2.0, "lr_end": 0.0}),
        ("inverse_sqrt", {}, {}),
        ("warmup_stable_decay", {"num_decay_steps": 12, "min_lr_rate": 0.0}, {"num_decay_steps": 12}),
        ("warmup_stable_decay", {"num_decay_steps": 33}, {"num_decay_steps": 33, "min_lr_ratio": 0.1}),
    ],
)
@pytest.mark.parametrize("warmup", [0, 7])
def test_after_warm_up_every_shape_is_that_of_transformers(
    kind: str, ours: dict[str, Any], theirs: dict[str, Any], warmup: int
) -> None:
    total = 40
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    (rate,) = get_scheduler(
        kind, optimizer, num_warmup_steps=warmup, num_training_steps=total, scheduler_specific_kwargs=theirs
    ).lr_lambdas
    training = TrainingConfig(
        lr_scheduler_type=kind.removesuffix("_with_warmup"), warmup_steps=warmup, **ours
    )
    factor = learning_rate_factor(training, total)
    steps = range(warmup + 1, total + 1)
    # transformers counts steps from 0
    assert [factor(step) for step in steps] == pytest.approx([rate(step - 1) for step in steps], abs=1e-9)


def test_a_share_of_decaying_steps() -> None:
    training = TrainingConfig(
        lr_scheduler_type="warmup_stable_decay", num_decay_steps=0.5, min_lr_rate=0.0, warmup_steps=0
    )
    values = [learning_rate_factor(training, 10)(step) for step in range(1, 11)]
    assert values[:6] == [1.0] * 6
    assert values[6:] == sorted(values[6:], reverse=True)
    assert 0 < values[-1] < 0.2


@pytest.mark.parametrize("kind", ["linear", "cosine", "polynomial"])
def test_old_shapes_keep_their_bits(kind: str) -> None:
    """A resume of an earlier run goes on at the rates that it began with."""
    factor = learning_rate_factor(TrainingConfig(lr_scheduler_type=kind, warmup_steps=3), 50)
    left = [(50 - step + 1) / 47 for step in range(4, 51)]
    wanted = {
        "linear": left,
        "polynomial": left,
        "cosine": [0.5 * (1.0 + math.cos(math.pi * (1.0 - one))) for one in left],
    }
    assert [factor(step) for step in range(4, 51)] == wanted[kind]
