"""Distillation: the student learns the teacher's distribution at each trained token, from its likeliest tokens.

The loss is the forward Kullback-Leibler divergence over the teacher's k likeliest tokens and one more class that
holds all others together. Without that class the k would be renormalised, a biased estimate of the teacher, whose
student is less well calibrated (Anshumann et al., 2025, "Sparse Logit Sampling", arXiv:2503.16870). With a k of the
whole vocabulary it is the full divergence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from backend.core.encoding.teacher import Teacher
from backend.core.packed_attention import MicroBatch
from backend.training.forward import ForwardPass
from backend.training.objective import BatchLoss, Means, StepLoss, Total, averages, trained_tokens

NLL, KD = "nll_loss", "kd_loss"


@dataclass
class TeacherLoss:
    """``kd_alpha`` × the divergence from a teacher + ``kd_ce_alpha`` × the cross-entropy of ``labels``, in nats.

    ``ids`` int64 [N, k] and ``logprobs`` fp32 [N, k + 1] are those of ``teacher.Said``. Both distributions are
    softened by ``temperature`` T, and the divergence is multiplied by T², which keeps its gradient in proportion to
    that of the cross-entropy (Hinton et al., 2015, §2). ``nll`` and ``kd`` add up both parts without their weights.
    """

    labels: Tensor
    ids: Tensor
    logprobs: Tensor
    temperature: float
    kd_alpha: float
    kd_ce_alpha: float
    nll: float = field(default=0.0, init=False)
    kd: float = field(default=0.0, init=False)

    def __call__(self, logits: Tensor, part: slice, *, grads: bool) -> tuple[Tensor, Tensor | None]:
        """Return the loss of the tokens ``part`` and its gradient in their logits."""
        target, ids, said = self.labels[part, None], self.ids[part], self.logprobs[part]
        log_norm = torch.logsumexp(logits, -1, keepdim=True)
        nll = (log_norm - logits.gather(1, target)).sum()

        soft = logits if self.temperature == 1.0 else logits / self.temperature
        soft_norm = log_norm if self.temperature == 1.0 else torch.logsumexp(soft, -1, keepdim=True)
        # all other tokens by themselves: one minus the sum of the k would be rounding where the k are nearly all
        others = soft.scatter(1, ids, -torch.inf)
        others_norm = torch.logsumexp(others, -1, keepdim=True)
        student = torch.cat([soft.gather(1, ids), others_norm], 1) - soft_norm
        teacher = said.exp()
        divergence = torch.where(teacher > 0, teacher * (said - student), 0.0).sum() * self.temperature**2
        self.nll += float(nll)
        self.kd += float(divergence)
        loss = self.kd_alpha * divergence + self.kd_ce_alpha * nll
        if not grads:
            return loss, None

        # in the student's logits: softmax - teacher at the k, softmax - (teacher's rest) × softmax of the others
        rest = others.sub_(others_norm.nan_to_num(neginf=0.0)).exp_().mul_(teacher[:, -1:])
        d_soft = (soft - soft_norm).exp_().sub_(rest).scatter_add_(1, ids, -teacher[:, :-1])
        d_logits = d_soft.mul_(self.kd_alpha * self.temperature)
        if self.kd_ce_alpha:
            d_nll = logits.sub_(log_norm).exp_()
            d_nll.scatter_add_(1, target, torch.full_like(target, -1.0, dtype=d_nll.dtype))
            d_logits.add_(d_nll, alpha=self.kd_ce_alpha)
        return loss, d_logits


class Distillation:
    """The mean of ``TeacherLoss`` over the trained tokens of a step, for rows that ``teacher`` has read."""

    group = 1
    names: Sequence[str] = (NLL, KD)

    def __init__(self, teacher: Teacher, *, kd_alpha: float, kd_ce_alpha: float) -> None:
        self._teacher, self._kd_alpha, self._kd_ce_alpha = teacher, kd_alpha, kd_ce_alpha

    def of_step(self, batches: Sequence[MicroBatch], _: Total) -> StepLoss:
        """Return the loss: the number of trained tokens of all ``batches`` divides the sum of each."""
        tokens = trained_tokens(batches)

        def loss(forward: ForwardPass, batch: MicroBatch) -> BatchLoss:
            parts: list[TeacherLoss] = []

            def of_tokens(part: MicroBatch) -> TeacherLoss:
                parts.append(self._loss_of(part))
                return parts[-1]

            share = forward.loss_sum(batch, of_tokens) / tokens
            count = float(len(batch.labels))
            nll, divergence = (sum(getattr(each, part) for each in parts) for part in ("nll", "kd"))
            return BatchLoss(share, {NLL: (nll, count), KD: (divergence, count)})

        return loss

    def measured(self, means: Means) -> Mapping[str, float]:
        """Return both parts of the loss by name, each without its weight."""
        return averages(means)

    def _loss_of(self, batch: MicroBatch) -> TeacherLoss:
        said = [self._teacher.of(example) for example in batch.examples]
        device = batch.labels.device
        return TeacherLoss(
            batch.labels,
            torch.from_numpy(np.concatenate([each.ids for each in said]).astype(np.int64)).to(device),
            torch.from_numpy(np.concatenate([each.logprobs for each in said])).to(device),
            self._teacher.provenance.temperature,
            self._kd_alpha,
            self._kd_ce_alpha,
        )
