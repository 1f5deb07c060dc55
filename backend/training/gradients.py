"""The gradient of one step: its micro-batches side by side in lanes and over processes, added up in order. F1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from backend.core.device import ComputePlan, is_out_of_memory, seed_everything, step_seed
from backend.core.lanes import Lanes
from backend.core.packed_attention import MicroBatch
from backend.errors import TrainingError
from backend.training.distributed import ALONE, World
from backend.training.forward import ForwardPass


def step_gradients(
    forward: ForwardPass,
    parameters: Sequence[nn.Parameter],
    batches: Sequence[MicroBatch],
    plan: ComputePlan,
    pool: Lanes,
    world: World = ALONE,
    *,
    seed: int,
    step: int,
) -> tuple[float, list[Tensor]]:
    """Mean loss in nats over the trained tokens of all ``batches`` and its gradient, one tensor a parameter.

    A weight that has no part in a micro-batch gets zeros from it. Every process of ``world`` computes its share of
    them, and all get the sum. Raises TrainingError (out-of-memory) when one does not fit, and LostPeerError.
    """
    denominator = sum(len(batch.labels) for batch in batches)
    device = torch.device(plan.device)
    random = forward.is_random  # the caller then gives one lane

    def compute(item: tuple[int, MicroBatch]) -> tuple[float, tuple[Tensor, ...]]:
        part, batch = item
        if random:
            seed_everything(step_seed(seed, step, part))
        with forward.autocast(plan):
            loss = forward.loss_sum(batch.to(device)) / denominator
        # an expert that no token was sent to has no part in the loss: zeros
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return float(loss.detach()), found

    total, summed = 0.0, list[Tensor]()
    try:
        for loss, gradients in pool.map(compute, world.my_share(list(enumerate(batches)))):
            total += loss
            summed = (
                [a.add_(b) for a, b in zip(summed, gradients, strict=True)] if summed else list(gradients)
            )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"Memory ran out at step {step} with up to {max(len(b.input_ids) for b in batches)} tokens at once.",
            remedy="Compute less at once: tunesmith runs resume RUN --training.micro_batch_tokens N branches off "
            "from its newest checkpoint with a smaller N. Where one row alone is too long, start a new run with a "
            "lower data.max_length.",
            code="out-of-memory",
        ) from error
    summed = summed or [torch.zeros_like(parameter) for parameter in parameters]
    return world.all_reduce(total, summed), summed
