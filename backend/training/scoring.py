"""Scores of rows under the current weights, without gradients, spread over lanes and processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from backend.core.device import ComputePlan, is_out_of_memory
from backend.core.encoding.examples import Example
from backend.core.lanes import Lanes
from backend.core.packed_attention import MicroBatch
from backend.training.batching import Packing
from backend.training.distributed import World
from backend.training.forward import ForwardPass
from backend.training.loss import RowScores
from backend.training.objective import Total

T = TypeVar("T")


def score(
    forward: ForwardPass,
    batches: Sequence[MicroBatch],
    plan: ComputePlan,
    pool: Lanes,
    value: Callable[[MicroBatch, RowScores], T],
) -> list[T]:
    """Return ``value`` of each micro-batch and its scores, in their order; the model keeps its mode."""
    device = torch.device(plan.device)

    def compute(batch: MicroBatch) -> T:
        with torch.no_grad(), forward.autocast(plan):
            return value(batch, forward.row_scores(batch.to(device)))

    return list(pool.map(compute, batches))


def total_over(forward: ForwardPass, packing: Packing, plan: ComputePlan, pool: Lanes, world: World) -> Total:
    """Return the function that scores examples and sums a figure of each micro-batch, over all processes.

    It raises torch.OutOfMemoryError in every process if memory ran out in one of them.
    """

    def total(examples: Sequence[Example], value: Callable[[MicroBatch, RowScores], float]) -> float:
        found, failed = 0.0, 0.0
        try:
            found = sum(score(forward, world.my_share(packing(examples)), plan, pool, value))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = 1.0
        summed, failed = world.all_reduce([found, failed])
        if failed:
            raise torch.OutOfMemoryError("Memory ran out in one of the processes while it scored examples.")
        return summed

    return total
