"""The loss that training minimises, as the loop sees it: a sum over a micro-batch, and the weight to divide it by.

Supervised fine-tuning averages over trained tokens; a preference loss would average over pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from backend.core.packed_attention import MicroBatch
from backend.training.forward import ForwardPass


@dataclass(frozen=True)
class Objective:
    """A loss over micro-batches. A step's loss is the sum of ``loss_sum`` divided by the sum of ``weight`` over them.

    ``loss_sum`` returns a differentiable scalar and divides by nothing: micro-batches differ in size, so a mean of
    their means would count tokens unequally. ``weight`` counts what the mean is over.
    """

    loss_sum: Callable[[ForwardPass, MicroBatch], Tensor]
    weight: Callable[[MicroBatch], int]


def cross_entropy(forward: ForwardPass, batch: MicroBatch) -> Tensor:
    """Return the summed cross-entropy in nats of the trained tokens of ``batch``."""
    return forward.loss_sum(batch)


def trained_tokens(batch: MicroBatch) -> int:
    """Return the number of tokens of ``batch`` that the loss is computed on."""
    return len(batch.labels)


SUPERVISED = Objective(cross_entropy, trained_tokens)
"""The mean cross-entropy in nats over trained tokens."""
