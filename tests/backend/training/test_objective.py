"""A step minimises the objective it is given, a mean over the whole step however it is split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from backend.core.lanes import Lanes
from backend.core.packed_attention import MicroBatch
from backend.run.config import TrainingConfig
from backend.training.batching import pack
from backend.training.forward import ForwardPass
from backend.training.gradients import StepGradients, step_gradients
from backend.training.loop import train_steps
from backend.training.objective import (
    BatchLoss,
    Means,
    Objective,
    StepLoss,
    Supervised,
    Total,
    averages,
    merged,
    trained_tokens,
)
from tests.backend.core.rows import PLAN, lively_model, no_total, random_rows, shake, start

ROWS = random_rows([9, 14, 20, 7])


class PerRow:
    """The mean over rows of their summed cross-entropy, times ``factor``."""

    group = 1
    names: Sequence[str] = ("rows",)

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def of_step(self, batches: Sequence[MicroBatch], _: Total) -> StepLoss:
        rows = sum(len(batch.examples) for batch in batches)

        def loss(forward: ForwardPass, batch: MicroBatch) -> BatchLoss:
            share = forward.loss_sum(batch) * self.factor / rows
            return BatchLoss(share, {"rows": (2.0 * len(batch.examples), float(len(batch.examples)))})

        return loss

    def measured(self, means: Means) -> dict[str, float]:
        return averages(means)


def _gradient(objective: Objective, budget: int) -> StepGradients:
    state = start(lively_model())
    shake(state)
    batches = pack(ROWS, budget=budget)
    with Lanes(1) as pool:
        return step_gradients(
            state.forward, list(state.parameters.values()), batches, PLAN, pool,
            objective=objective, total=no_total, seed=0, step=1,
        )  # fmt: skip


@pytest.mark.parametrize("budget", [25, 10_000])
def test_the_mean_is_over_all_micro_batches(budget: int) -> None:
    by_row, by_token = _gradient(PerRow(), budget), _gradient(Supervised(), budget)

    ratio = sum(int(row.trained[1:].sum()) for row in ROWS) / len(ROWS)
    assert by_row.loss == pytest.approx(by_token.loss * ratio, rel=1e-5)
    assert by_row.means == {"rows": (8.0, 4.0)}
    assert by_token.means == {}
    for ours, theirs in zip(by_row.gradients, by_token.gradients, strict=True):
        torch.testing.assert_close(ours, theirs * ratio, rtol=1e-4, atol=1e-6)


def test_trained_tokens_are_counted_over_all_micro_batches() -> None:
    expected = sum(int(row.trained[1:].sum()) for row in ROWS)
    assert [trained_tokens(pack(ROWS, budget=budget)) for budget in (10, 10_000)] == [expected] * 2


def test_the_loop_reports_the_objective_it_is_given() -> None:
    training = TrainingConfig(num_train_epochs=1, learning_rate=1e-3)
    reports = list(train_steps(start(lively_model()), ROWS, training, PLAN, seed=0, objective=PerRow(0.0)))
    assert reports
    assert [(report.loss, report.grad_norm) for report in reports] == [(0.0, 0.0)] * len(reports)
    assert [report.measured for report in reports] == [{"rows": 2.0}] * len(reports)


def test_groups_of_examples_are_rows_of_the_loop() -> None:
    objective = PerRow()
    objective.group = 2
    training = TrainingConfig(num_train_epochs=1, learning_rate=1e-3, per_device_train_batch_size=1)
    reports = list(train_steps(start(lively_model()), ROWS, training, PLAN, seed=0, objective=objective))
    assert len(reports) == 2
    assert {report.rows for report in reports} == {(ROWS[0].row,), (ROWS[2].row,)}


class TestMeans:
    def test_sums_and_counts_add_up(self) -> None:
        parts: list[Means] = [{"a": (1.0, 2.0), "b": (0.0, 0.0)}, {"a": (5.0, 1.0)}, {}]
        assert merged(parts) == {"a": (6.0, 3.0), "b": (0.0, 0.0)}
        assert averages(merged(parts)) == {"a": 2.0}

    @pytest.mark.parametrize("function", [merged, lambda means: averages({})])
    def test_of_nothing_is_nothing(self, function: Callable[[Sequence[Means]], Means]) -> None:
        assert function([]) == {}

    def test_the_supervised_loss_says_it_all(self) -> None:
        assert Supervised().measured({"a": (1.0, 1.0)}) == {}
