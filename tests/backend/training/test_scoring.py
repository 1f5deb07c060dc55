"""Scores without gradients are those of the model, whatever shares the work."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from backend.core.lanes import Lanes
from backend.core.packed_attention import MicroBatch
from backend.training.batching import Packing
from backend.training.distributed import ALONE
from backend.training.loss import RowScores
from backend.training.scoring import score, total_over
from tests.backend.core.rows import PLAN, lively_model, random_rows, shake, start

ROWS = random_rows([9, 14, 20, 7])


def _logprobs(_: MicroBatch, scores: RowScores) -> list[float]:
    assert not scores.logprob.requires_grad
    return [float(each) for each in scores.logprob]


def _sum(_: MicroBatch, scores: RowScores) -> float:
    return float(scores.logprob.sum())


@pytest.mark.parametrize("lanes", [1, 2])
def test_each_micro_batch_in_its_order(lanes: int) -> None:
    state = start(lively_model())
    shake(state)
    batches = Packing(25)(ROWS)
    with Lanes(lanes) as pool:
        found = score(state.forward, batches, replace(PLAN, lanes=lanes), pool, _logprobs)
    assert [len(each) for each in found] == [len(batch.rows) for batch in batches]
    losses = [float(state.forward.loss_sum(batch).detach()) for batch in batches]
    assert [-sum(each) for each in found] == pytest.approx(losses, rel=1e-6)


def test_a_total_is_the_loss_of_the_rows_and_leaves_the_model_as_it_was() -> None:
    state = start(lively_model())
    shake(state)
    with Lanes(2) as pool:
        total = total_over(state.forward, Packing(25), PLAN, pool, ALONE)(ROWS, _sum)
    (batch,) = Packing(10_000, on_cpu=False)(ROWS)
    assert -total == pytest.approx(float(state.forward.loss_sum(batch).detach()), rel=1e-6)
    assert state.forward.model.training
    assert all(part.grad is None for part in state.forward.model.parameters())


def test_memory_that_runs_out_is_called_so_in_every_process() -> None:
    def run_out(*_: object) -> float:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    state = start(lively_model())
    with Lanes(1) as pool:
        total = total_over(state.forward, Packing(25), PLAN, pool, ALONE)
        with pytest.raises(torch.OutOfMemoryError, match="while it scored"):
            total(ROWS, run_out)


@pytest.mark.parametrize("steady", [None, 10])
def test_rows_are_scored_alike_where_long_ones_run_alone(steady: int | None) -> None:
    state = start(lively_model())
    shake(state)
    (batch,) = Packing(10_000, on_cpu=False)(ROWS)
    with torch.no_grad():
        whole = state.forward.row_scores(batch)
        split = replace(state.forward, steady_length=steady).row_scores(batch)
    torch.testing.assert_close(split.logprob, whole.logprob, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(split.tokens, whole.tokens)
