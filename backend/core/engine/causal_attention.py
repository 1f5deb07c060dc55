"""Causal attention over the rows of a micro-batch, with its gradient written out, for the processor.

Rows of similar length are padded together (see ``core/packed_attention``), and scores are computed in stripes of
queries, so that memory grows with the length of a row and not with its square, and keys behind a stripe cost nothing.
With P = softmax(scale Q K^T), which is computed again and not kept:

    dV = P^T dO    dP = dO V^T    dS = scale P * (dP - rowsum(P * dP))    dQ = dS K    dK = dS^T Q
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from backend.core.engine.elementwise import causal_softmax_, causal_softmax_backward_
from backend.core.packed_attention import MicroBatch

STRIPE = 256
"""Queries whose scores exist at once."""
STRIPE_BYTES = 64 * 2**20
"""Most bytes of the scores of a stripe, unless one row alone has more."""


def attend(q: Tensor, k: Tensor, v: Tensor, batch: MicroBatch, width: int, scale: float) -> Tensor:
    """Return attention within every row of ``batch``: q [T, H * width], k and v [T, KV * width] -> [T, H * width]."""
    outputs: list[Tensor] = []
    for block in batch.blocks:
        queries, keys, values = (_heads(each, block, width) for each in (q, k, v))
        queries = _grouped(queries, keys)
        out = torch.empty_like(queries)
        for rows, start, end in _stripes(queries):
            key, value = keys[rows, :end], values[rows, :end]
            p = _probabilities(queries[rows, :, start:end], key, start, scale)
            out[rows, :, start:end] = torch.bmm(p, value).view_as(out[rows, :, start:end])
        outputs.append(_flat(out, block))
    per_slot = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return per_slot.index_select(0, batch.slot_of_token).to(q.dtype)


def attend_backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, batch: MicroBatch, width: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v, given that of what ``attend`` returned.

    A token that rows share gets the sum over them, in float32 and in the order of the rows.
    """
    slots = sum(block.numel() for block in batch.blocks)
    per_slot = d_out.new_zeros((slots, d_out.shape[1]))
    per_slot.index_copy_(0, batch.slot_of_token, d_out)
    totals = [torch.zeros(each.shape, dtype=torch.float32, device=each.device) for each in (q, k, v)]
    start_of_block = 0
    for block in batch.blocks:
        queries, keys, values = (_heads(each, block, width) for each in (q, k, v))
        queries = _grouped(queries, keys)
        here = torch.arange(start_of_block, start_of_block + block.numel(), device=block.device)
        start_of_block += block.numel()
        d_all = _grouped(_heads(per_slot, here.view(block.shape), width), keys)
        dq, dk, dv = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        for rows, start, end in _stripes(queries):
            query, key, value = (
                queries[rows, :, start:end].flatten(1, 2),
                keys[rows, :end],
                values[rows, :end],
            )
            p = _probabilities(queries[rows, :, start:end], key, start, scale)
            d_stripe = d_all[rows, :, start:end].flatten(1, 2)
            dv[rows, :end] += torch.bmm(p.transpose(1, 2), d_stripe)
            ds = torch.bmm(d_stripe, value.transpose(1, 2))
            shape = -1, end - start, end
            causal_softmax_backward_(p.view(shape), ds.view(shape), start, scale)
            dq[rows, :, start:end] = torch.bmm(ds, key).view_as(dq[rows, :, start:end])
            dk[rows, :end] += torch.bmm(ds.transpose(1, 2), query)
        for total, gradient in zip(totals, (dq, dk, dv), strict=True):
            total.index_add_(0, block.reshape(-1), _flat(gradient, block))
    dq, dk, dv = (total.to(q.dtype) for total in totals)
    return dq, dk, dv


def _probabilities(query: Tensor, key: Tensor, start: int, scale: float) -> Tensor:
    """Return the weights [n, G * queries, keys] that queries [n, G, queries, width] at ``start`` give to keys."""
    scores = torch.bmm(query.flatten(1, 2), key.transpose(1, 2))
    causal_softmax_(scores.view(-1, query.shape[2], key.shape[1]), start, scale)
    return scores


def _heads(x: Tensor, block: Tensor, width: int) -> Tensor:
    """Return the tokens of ``block`` [rows, L] in x [T, heads * width] by heads: float32 [rows * heads, L, width]."""
    rows, length = block.shape
    taken = x.index_select(0, block.reshape(-1)).view(rows, length, -1, width)
    return (
        taken.transpose(1, 2)
        .to(torch.float32, memory_format=torch.contiguous_format)
        .reshape(-1, length, width)
    )


def _grouped(queries: Tensor, keys: Tensor) -> Tensor:
    """Return queries [rows * H, L, width] as [rows * KV, G, L, width]: heads that share a key head side by side."""
    return queries.view(len(keys), -1, *keys.shape[1:])


def _flat(x: Tensor, block: Tensor) -> Tensor:
    """Return heads [rows * KV, (G,) L, width] token by token: [rows * L, heads * width]."""
    rows, length = block.shape
    return x.view(rows, -1, length, x.shape[-1]).transpose(1, 2).reshape(rows * length, -1)


def _stripes(queries: Tensor) -> Iterator[tuple[slice, int, int]]:
    """Yield slices of the leading dimension of queries [n, G, L, width], and stripes of their positions."""
    lead, groups, length, _ = queries.shape
    size = max(1, STRIPE_BYTES // max(1, groups * min(STRIPE, length) * length * 4))
    for first in range(0, lead, size):
        for start in range(0, length, STRIPE):
            yield slice(first, first + size), start, min(start + STRIPE, length)
