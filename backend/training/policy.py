"""The objective of GRPO: log-probabilities of sampled answers, weighted by what the answers are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backend.core.packed_attention import MicroBatch
from backend.training.forward import ForwardPass
from backend.training.objective import BatchLoss, Means, StepLoss, Total, averages

ENTROPY = "entropy"


@dataclass
class PolicyLoss:
    """The loss of ``labels`` int64 [N] with ``weights`` fp32 [N], each token's advantage over its normaliser.

    It is -weight × ratio of the new probability to the old one. As both are the same here, its value is -weight and
    its gradient that of -weight × log-probability, of softmax(logits / ``temperature``). ``entropy`` adds up that of
    this distribution in nats.
    """

    labels: Tensor
    weights: Tensor
    temperature: float
    entropy: float = field(default=0.0, init=False)

    def __call__(self, logits: Tensor, part: slice, *, grads: bool) -> tuple[Tensor, Tensor | None]:
        """Return the loss of the tokens ``part`` and its gradient in their logits."""
        target, weights = self.labels[part, None], self.weights[part, None]
        each = logits if self.temperature == 1.0 else logits.div_(self.temperature)
        each = each.sub_(torch.logsumexp(each, -1, keepdim=True))
        softmax = each.exp()
        self.entropy -= float(torch.linalg.vecdot(softmax, each).double().sum())
        loss = -weights.sum()
        if not grads:
            return loss, None
        d_logits = softmax.scatter_add_(1, target, torch.full_like(target, -1.0, dtype=softmax.dtype))
        return loss, d_logits.mul_(weights / self.temperature)


class PolicyGradient:
    """The sum of ``PolicyLoss`` over the trained tokens of a step, whose examples carry their weight."""

    group = 1
    names: Sequence[str] = (ENTROPY,)

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def of_step(self, _: Sequence[MicroBatch], __: Total) -> StepLoss:
        """Return the loss: examples bring their normaliser with them, so shares need nothing of the others."""

        def loss(forward: ForwardPass, batch: MicroBatch) -> BatchLoss:
            parts: list[PolicyLoss] = []

            def of_tokens(part: MicroBatch) -> PolicyLoss:
                parts.append(PolicyLoss(part.labels, _weights(part), self._temperature))
                return parts[-1]

            share = forward.loss_sum(batch, of_tokens)
            return BatchLoss(
                share, {ENTROPY: (sum(each.entropy for each in parts), float(len(batch.labels)))}
            )

        return loss

    def measured(self, means: Means) -> Mapping[str, float]:
        """Return the mean entropy of the tokens."""
        return averages(means)


def _weights(batch: MicroBatch) -> Tensor:
    """Return the weight of each trained token of ``batch``, fp32 [N]."""
    device = batch.labels.device
    counts = torch.tensor([int(each.trained[1:].sum()) for each in batch.examples], device=device)
    each = torch.tensor([each.weight for each in batch.examples], device=device)
    return each.repeat_interleave(counts)
