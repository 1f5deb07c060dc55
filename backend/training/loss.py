"""Cross-entropy of hidden states through the language model head, without ever holding all logits.

The logits of a batch, [tokens, vocabulary] in fp32, are often its largest tensor. Here the head runs on trained
tokens only, a chunk at a time, and each chunk's gradient is computed while its logits exist.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 128
"""Trained tokens whose logits exist at once; with 128 to 256 a chunk stays near the last-level cache."""


class _LinearCrossEntropy(torch.autograd.Function):
    """sum(cross_entropy(hidden @ weight.T + bias, labels)), with the gradient computed in the forward pass.

    The gradient of cross-entropy in the logits is softmax(logits) - one_hot(label). It needs nothing from later
    layers, since the loss is a sum: backward only multiplies by the incoming scalar. Otherwise the logits would have
    to be kept or computed again.
    """

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
            d_logits = logits.sub_(log_norm).exp_()  # softmax, in place: the logits are not needed again
            d_logits.scatter_add_(1, target, torch.full_like(target, -1.0, dtype=d_logits.dtype))
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            d_low = d_logits.to(hidden.dtype)
            torch.matmul(d_low, weight, out=d_hidden[start : start + CHUNK])
            if d_weight is not None:
                d_weight += (
                    d_low.t() @ piece
                )  # d_weight is fp32, so many chunks in bfloat16 do not drown in it
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
    """Return the summed cross-entropy in nats of ``labels`` [N] given ``hidden`` [N, h] and a head ``weight`` [V, h].

    Differentiable in hidden, weight and bias; not twice. At most CHUNK rows of logits exist at once.
    """
    grads = torch.is_grad_enabled() and any(
        part is not None and part.requires_grad for part in (hidden, weight, bias)
    )
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, labels, grads)
    return loss
