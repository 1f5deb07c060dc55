"""Log-probabilities and cross-entropy of tokens through the language model head, without ever holding all logits.

The logits of a batch, [tokens, vocabulary] in fp32, are often its largest tensor. Here the head runs on trained
tokens only, a chunk at a time, and each chunk's gradient is computed while its logits exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 128
"""Trained tokens whose logits exist at once; with 128 to 256 a chunk stays near the last-level cache."""


class TokenLoss(Protocol):
    """A loss that is a sum over tokens, each from its own logits; a chunk of the tokens at a time."""

    def __call__(self, logits: Tensor, part: slice, *, grads: bool) -> tuple[Tensor, Tensor | None]:
        """Return (the loss of the tokens ``part``, with ``grads`` its gradient in their ``logits`` fp32 [n, V]).

        The logits may be overwritten: they are not needed again.
        """
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """The cross-entropy in nats of ``labels`` int64 [N]."""

    labels: Tensor

    def __call__(self, logits: Tensor, part: slice, *, grads: bool) -> tuple[Tensor, Tensor | None]:
        """Return the sum over the tokens ``part`` and its gradient: softmax(logits) - one_hot(label)."""
        target = self.labels[part, None]
        log_norm = torch.logsumexp(logits, -1, keepdim=True)
        loss = (log_norm - logits.gather(1, target)).sum()
        if not grads:
            return loss, None
        d_logits = logits.sub_(log_norm).exp_()  # softmax, in place
        return loss, d_logits.scatter_add_(1, target, torch.full_like(target, -1.0, dtype=d_logits.dtype))


class _LinearLoss(torch.autograd.Function):
    """A TokenLoss of hidden @ weight.T + bias, with the gradient computed in the forward pass.

    The gradient of a sum over tokens needs nothing from later layers: backward only multiplies by the incoming
    scalar. Otherwise the logits would have to be kept or computed again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, token_loss: TokenLoss, grads: bool
    ) -> Tensor:
        d_hidden = torch.empty_like(hidden) if grads else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if grads and weight.requires_grad else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if grads and bias is not None else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], CHUNK):
            part = slice(start, start + CHUNK)
            piece = hidden[part]
            logits = F.linear(piece, weight, bias).float()
            loss, d_logits = token_loss(logits, part, grads=grads)
            total += loss
            if d_hidden is None or d_logits is None:
                continue
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            d_low = d_logits.to(hidden.dtype)
            torch.matmul(d_low, weight, out=d_hidden[part])
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


class _LogitLoss(torch.autograd.Function):
    """A TokenLoss of whole logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, token_loss: TokenLoss) -> Tensor:
        loss, d_logits = token_loss(logits.clone(), slice(None), grads=logits.requires_grad)
        ctx.save_for_backward(d_logits)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (d_logits,) = ctx.saved_tensors
        return d_logits * grad_outputs[0], None


def linear_loss(hidden: Tensor, weight: Tensor, token_loss: TokenLoss, bias: Tensor | None = None) -> Tensor:
    """Return ``token_loss`` of the logits of ``hidden`` [N, h] under a head ``weight`` [V, h], as a scalar.

    Differentiable in hidden, weight and bias; not twice. At most CHUNK rows of logits exist at once.
    """
    grads = torch.is_grad_enabled() and any(
        part is not None and part.requires_grad for part in (hidden, weight, bias)
    )
    loss: Tensor = _LinearLoss.apply(hidden, weight, bias, token_loss, grads)
    return loss


def logit_loss(logits: Tensor, token_loss: TokenLoss) -> Tensor:
    """Return ``token_loss`` of whole ``logits`` fp32 [N, V], as a scalar; differentiable once."""
    loss: Tensor = _LogitLoss.apply(logits, token_loss)
    return loss


@dataclass(frozen=True)
class TokenScores:
    """What a model says of each of N trained tokens. Only ``logprobs`` is differentiable.

    ``logprobs``: fp32 [N], in nats. ``entropy``: fp32 [N], of the whole distribution, in nats. ``is_top1``: bool [N],
    whether no other token is likelier.
    """

    logprobs: Tensor
    entropy: Tensor
    is_top1: Tensor

    @classmethod
    def of_logits(cls, logits: Tensor, labels: Tensor) -> TokenScores:
        """Return the scores of ``labels`` [N] given whole ``logits`` [N, V], differentiable as torch does it."""
        each = torch.log_softmax(logits.float(), -1)
        logprobs = each.gather(1, labels[:, None])[:, 0]
        whole = each.detach()
        is_top1 = logprobs.detach() >= whole.amax(-1)
        return cls(logprobs, -torch.linalg.vecdot(whole.exp(), whole), is_top1)


@dataclass(frozen=True)
class RowScores:
    """What a model says of the trained tokens of each of E rows, summed over the row; all float64 [E].

    ``logprob`` is differentiable, ``entropy`` and ``correct`` (tokens that no other is likelier than) are not. Sums
    are in float64, since a preference loss takes small differences of large sums.
    """

    logprob: Tensor
    tokens: Tensor
    entropy: Tensor
    correct: Tensor

    @classmethod
    def of(cls, scores: TokenScores, lengths: Sequence[int]) -> RowScores:
        """Return the sums of ``scores`` over consecutive rows with these numbers of trained tokens."""

        def summed(values: Tensor) -> Tensor:
            return torch.stack([part.sum() for part in values.double().split(list(lengths))])

        tokens = torch.tensor(lengths, dtype=torch.float64, device=scores.logprobs.device)
        return cls(summed(scores.logprobs), tokens, summed(scores.entropy), summed(scores.is_top1))

    @classmethod
    def in_order(cls, parts: Sequence[RowScores], order: Sequence[int]) -> RowScores:
        """Return the rows of all ``parts`` in another order: row i of the result is number ``order[i]`` of them."""
        index = torch.tensor(order, device=parts[0].logprob.device)
        return cls(
            *(
                torch.cat([getattr(part, name) for part in parts]).index_select(0, index)
                for name in ("logprob", "tokens", "entropy", "correct")
            )
        )


class _TokenScores(torch.autograd.Function):
    """log_softmax(hidden @ weight.T + bias)[labels], whose gradient is weighted token by token in backward.

    The gradient of a token's log-probability in its own hidden state is kept from the forward pass, while the logits
    exist; backward multiplies each row by the weight that arrives for that token. The gradient of a trained head is
    a sum over tokens, which cannot be formed before the weights are known: its logits are computed again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, grads: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        d_hidden = torch.empty_like(hidden) if grads else None
        logprobs, entropy = (hidden.new_empty(len(labels), dtype=torch.float32) for _ in range(2))
        is_top1 = torch.empty(len(labels), dtype=torch.bool, device=hidden.device)
        for start in range(0, len(labels), CHUNK):
            part = slice(start, start + CHUNK)
            piece, target = hidden[part], labels[part, None]
            logits = F.linear(piece, weight, bias).float()
            is_top1[part] = logits.gather(1, target)[:, 0] >= logits.amax(-1)
            each = logits.sub_(torch.logsumexp(logits, -1, keepdim=True))
            logprobs[part] = each.gather(1, target)[:, 0]
            softmax = each.exp()
            entropy[part] = -torch.linalg.vecdot(softmax, each)
            if d_hidden is not None:
                d_logits = softmax.neg_().scatter_add_(
                    1, target, torch.ones_like(target, dtype=softmax.dtype)
                )
                torch.matmul(d_logits.to(hidden.dtype), weight, out=d_hidden[part])
        ctx.save_for_backward(hidden, weight, bias, labels, d_hidden)
        ctx.mark_non_differentiable(entropy, is_top1)
        return logprobs, entropy, is_top1

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, d_hidden = ctx.saved_tensors
        token_weights = grad_outputs[0][:, None]
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if ctx.needs_input_grad[2] else None
        for start in range(0, len(labels) if d_weight is not None or d_bias is not None else 0, CHUNK):
            part = slice(start, start + CHUNK)
            piece, target = hidden[part], labels[part, None]
            d_logits = F.linear(piece, weight, bias).float().softmax(-1).neg_()
            d_logits.scatter_add_(1, target, torch.ones_like(target, dtype=d_logits.dtype)).mul_(
                token_weights[part]
            )
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            if d_weight is not None:
                d_weight += d_logits.to(hidden.dtype).t() @ piece
        return d_hidden * token_weights.to(d_hidden.dtype), d_weight, d_bias, None, None


def linear_token_scores(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None
) -> TokenScores:
    """Return what a head ``weight`` [V, h] says of ``labels`` [N] given ``hidden`` [N, h], token by token.

    ``logprobs`` are differentiable in hidden, weight and bias; not twice. At most CHUNK rows of logits exist at once.
    """
    grads = torch.is_grad_enabled() and any(
        part is not None and part.requires_grad for part in (hidden, weight, bias)
    )
    return TokenScores(*_TokenScores.apply(hidden, weight, bias, labels, grads))
