"""The loss that training minimises, as the loop sees it: the share of each micro-batch in the loss of a step.

Supervised fine-tuning averages over trained tokens. ``preferences`` compare answers instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from backend.core.encoding.examples import Example
from backend.core.packed_attention import MicroBatch
from backend.training.forward import ForwardPass
from backend.training.loss import RowScores

Means = Mapping[str, tuple[float, float]]
"""Measurements by their name in TRL, each as (sum, number of what it is summed over): means then add up."""


@dataclass(frozen=True)
class BatchLoss:
    """What one micro-batch adds to the loss of a step: a differentiable scalar, and its measurements."""

    share: Tensor
    means: Means = field(default_factory=dict)


StepLoss = Callable[[ForwardPass, MicroBatch], BatchLoss]
"""The loss of one step, a micro-batch at a time: their shares add up to the loss."""
Total = Callable[[Sequence[Example], Callable[[MicroBatch, RowScores], float]], float]
"""Scores examples without gradients, in micro-batches, and returns the sum of a figure of each micro-batch. With
several processes it is the sum over all of them."""


class Objective(Protocol):
    """A loss over steps of examples; its value is a mean, so micro-batches that differ in size need the whole step.

    ``group``: so many consecutive examples belong together, such as the two answers of a pair. ``names``: those of
    all its measurements, in order.
    """

    group: int
    names: Sequence[str]

    def of_step(self, batches: Sequence[MicroBatch], total: Total) -> StepLoss:
        """Return the loss of the step, or of the held-out rows, that consists of ``batches``."""
        ...

    def measured(self, means: Means) -> Mapping[str, float]:
        """Return the measurements of a step by name, from the means of all its micro-batches."""
        ...


class Supervised:
    """The mean cross-entropy in nats over the trained tokens of a step."""

    group = 1
    names: Sequence[str] = ()

    def of_step(self, batches: Sequence[MicroBatch], _: Total) -> StepLoss:
        """Return the loss: the number of trained tokens of all ``batches`` divides the sum of each."""
        tokens = trained_tokens(batches)
        return lambda forward, batch: BatchLoss(forward.loss_sum(batch) / tokens)

    def measured(self, _: Means) -> Mapping[str, float]:
        """Return nothing: the loss says it all."""
        return {}


def trained_tokens(batches: Sequence[MicroBatch]) -> int:
    """Return the number of tokens of ``batches`` that the loss is computed on."""
    return sum(len(batch.labels) for batch in batches)


def merged(parts: Sequence[Means]) -> Means:
    """Return the means of several micro-batches together."""
    names = dict.fromkeys(name for part in parts for name in part)
    found = {name: [part[name] for part in parts if name in part] for name in names}
    return {name: (sum(s for s, _ in each), sum(n for _, n in each)) for name, each in found.items()}


def averages(means: Means) -> dict[str, float]:
    """Return the value of each mean; one over nothing is left out."""
    return {name: total / number for name, (total, number) in means.items() if number}
