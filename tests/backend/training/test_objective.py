"""A step minimises the objective it is given, averaged over that objective's own weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backend.core.lanes import Lanes
from backend.core.packed_attention import MicroBatch
from backend.run.config import TrainingConfig
from backend.training.batching import pack
from backend.training.forward import ForwardPass
from backend.training.gradients import step_gradients
from backend.training.loop import train_steps
from backend.training.objective import SUPERVISED, Objective, cross_entropy, trained_tokens
from tests.backend.core.rows import PLAN, lively_model, random_rows, shake, start

ROWS = random_rows([9, 14, 20, 7])


def _per_row(batch: MicroBatch) -> int:
    return len(batch.rows)


def _gradient(objective: Objective, budget: int) -> tuple[float, list[Tensor]]:
    state = start(lively_model())
    shake(state)
    batches = pack(ROWS, budget=budget)
    with Lanes(1) as pool:
        return step_gradients(
            state.forward, list(state.parameters.values()), batches, PLAN, pool,
            objective=objective, seed=0, step=1,
        )  # fmt: skip


@pytest.mark.parametrize("budget", [25, 10_000])
def test_the_mean_is_over_the_weight_of_all_micro_batches(budget: int) -> None:
    loss, gradients = _gradient(Objective(cross_entropy, _per_row), budget)
    by_token, token_gradients = _gradient(SUPERVISED, budget)

    ratio = sum(int(row.trained[1:].sum()) for row in ROWS) / len(ROWS)
    assert loss == pytest.approx(by_token * ratio, rel=1e-5)
    for ours, theirs in zip(gradients, token_gradients, strict=True):
        torch.testing.assert_close(ours, theirs * ratio, rtol=1e-4, atol=1e-6)


def test_supervised_training_averages_over_trained_tokens() -> None:
    (batch,) = pack(ROWS, budget=10_000)
    assert (
        SUPERVISED.weight(batch) == trained_tokens(batch) == sum(int(row.trained[1:].sum()) for row in ROWS)
    )


def test_the_loop_reports_the_objective_it_is_given() -> None:
    def nothing(forward: ForwardPass, batch: MicroBatch) -> Tensor:
        return forward.loss_sum(batch) * 0.0

    training = TrainingConfig(num_train_epochs=1, learning_rate=1e-3)
    reports = list(
        train_steps(
            start(lively_model()), ROWS, training, PLAN, seed=0, objective=Objective(nothing, _per_row)
        )
    )
    assert reports
    assert [(report.loss, report.grad_norm) for report in reports] == [(0.0, 0.0)] * len(reports)
