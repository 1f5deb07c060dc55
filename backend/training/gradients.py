"""The gradient of one optimizer step: micro-batches spread over lanes and processes, summed in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backend.core.device import ComputePlan, is_out_of_memory, seed_everything, step_seed
from backend.core.lanes import Lanes
from backend.core.packed_attention import MicroBatch
from backend.errors import TrainingError
from backend.training.distributed import ALONE, World
from backend.training.forward import ForwardPass
from backend.training.objective import Means, Objective, Total, merged


@dataclass(frozen=True)
class StepGradients:
    """The loss of one step, its measurements, and its gradient, one tensor per parameter."""

    loss: float
    means: Means
    gradients: list[Tensor]


def step_gradients(
    forward: ForwardPass,
    parameters: Sequence[nn.Parameter],
    batches: Sequence[MicroBatch],
    plan: ComputePlan,
    pool: Lanes,
    world: World = ALONE,
    *,
    objective: Objective,
    total: Total,
    seed: int,
    step: int,
) -> StepGradients:
    """Return the loss of one step and its gradient, the same in every process of ``world``.

    ``objective`` may score further examples with ``total``. A parameter that a micro-batch does not use gets a zero
    gradient from it. Raises TrainingError ``out-of-memory``, in every process, when a micro-batch does not fit
    in one of them, and LostPeerError.
    """
    device = torch.device(plan.device)
    random = forward.is_random  # the caller then passes a pool of one lane, since the generator is global

    def compute(item: tuple[int, MicroBatch]) -> tuple[float, Means, tuple[Tensor, ...]]:
        part, batch = item
        if random:
            seed_everything(step_seed(seed, step, part))
        with forward.autocast(plan):
            loss = loss_of(forward, batch.to(device))
        # grad() and not backward(): lanes run at once, and backward() would add into one .grad per parameter.
        # allow_unused: an expert that no token was routed to has no part in the graph.
        gradients = torch.autograd.grad(loss.share, parameters, allow_unused=True, materialize_grads=True)
        return float(loss.share.detach()), loss.means, gradients

    whole, parts, summed = 0.0, list[Means](), list[Tensor]()
    try:
        # of all batches, not of this process's share: the shares then add up to the mean
        loss_of = objective.of_step(batches, total)
        # in the order of the micro-batches, whichever lane ends first: the order of a sum decides its last bits
        for share, means, gradients in pool.map(compute, world.my_share(list(enumerate(batches)))):
            whole += share
            parts.append(means)
            summed = (
                [a.add_(b) for a, b in zip(summed, gradients, strict=True)] if summed else list(gradients)
            )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        world.all_reduce([1.0])
        raise _out_of_memory(batches, step) from error
    # before gradients are added up, which a process that failed has not
    (failed,) = world.all_reduce([0.0])
    if failed:
        raise _out_of_memory(batches, step)
    summed = summed or [torch.zeros_like(parameter) for parameter in parameters]
    own = merged(parts)
    figures = [figure for name in objective.names for figure in own.get(name, (0.0, 0.0))]
    whole, *figures = world.all_reduce([whole, *figures], summed)
    together = dict(zip(objective.names, zip(figures[::2], figures[1::2], strict=True), strict=True))
    return StepGradients(whole, together, summed)


def _out_of_memory(batches: Sequence[MicroBatch], step: int) -> TrainingError:
    return TrainingError(
        f"Memory ran out at step {step} with up to {max(len(b.input_ids) for b in batches)} tokens at once.",
        remedy="Compute less at once, with a smaller training.micro_batch_tokens in a branch from its newest "
        "checkpoint. Where one row alone is too long, start a new run with a "
        "lower data.max_length.",
        code="out-of-memory",
    )
