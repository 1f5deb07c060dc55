"""Masked cross-entropy that never holds all logits: the head runs on trained tokens only, in chunks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 128
"""Trained tokens whose logits exist at once; 128 to 256 keep a chunk near the last-level cache."""


class _LinearCrossEntropy(torch.autograd.Function):
    """sum(cross_entropy(hidden @ weight.T + bias)), its gradient computed on the way forward, a chunk at a time."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, grads: bool
    ) -> Tensor:
        d_hidden = torch.empty_like(hidden) if grads else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if grads and weight.requires_grad else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if grads and bias is not None else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], CHUNK):
            piece, target = hidden[start : start + CHUNK], labels[start : start + CHUNK, None]
            logits = F.linear(piece, weight, bias).float()
            log_norm = torch.logsumexp(logits, -1, keepdim=True)
            total += (log_norm - logits.gather(1, target)).sum()
            if d_hidden is None:
                continue
            slope = logits.sub_(log_norm).exp_()
            slope.scatter_add_(1, target, torch.full_like(target, -1.0, dtype=slope.dtype))
            if d_bias is not None:
                d_bias += slope.sum(0)
            low = slope.to(hidden.dtype)
            torch.matmul(low, weight, out=d_hidden[start : start + CHUNK])
            if d_weight is not None:
                d_weight += low.t() @ piece
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0]
        grads = [None if grad is None else grad * scale for grad in ctx.saved_tensors]
        return *grads, None, None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Summed cross-entropy in nats of ``labels`` [N] under ``hidden`` [N, h] times the head ``weight`` [V, h].

    Differentiable in hidden, weight and bias. Never holds more than CHUNK rows of logits.
    """
    grads = torch.is_grad_enabled() and any(
        part is not None and part.requires_grad for part in (hidden, weight, bias)
    )
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, labels, grads)
    return loss
