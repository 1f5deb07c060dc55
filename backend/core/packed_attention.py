"""Causal attention over packed rows, registered with transformers as an attention implementation.

The model runs on one sequence of distinct tokens (see ``training/batching``). Only attention needs rows: here the
tokens are gathered into padded blocks of rows, attended to causally, and read back, so padding costs nothing in the
linear layers.

On CPU the backward pass is written by hand with batched fp32 matrix products: faster and three times more accurate
than torch's own CPU flash backward in bfloat16. It follows FlashAttention (Dao et al., 2022, arXiv:2205.14135,
algorithm 4), with scores S = scale Q K^T and their row-wise log-sum-exp, lse:

    P = exp(S - lse)    dV = P^T dO    dS = P * (dO V^T - rowsum(dO * O))    dQ = scale dS K    dK = scale dS^T Q
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from backend.core.encoding.examples import Example

NAME = "tunesmith_packed"
BACKWARD_BYTES = 64 * 2**20
"""Largest fp32 score matrix held at once in the CPU backward pass."""

_flash_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


@dataclass(frozen=True)
class MicroBatch:
    """Rows laid out as one sequence of T distinct tokens; a beginning that rows share is stored once.

    ``input_ids``, ``position_ids``: int64 [T].
    ``blocks``: padded blocks of rows for attention, each int64 [rows, length]: the index, among the T tokens, of the
    token at each position. Positions after a row's end repeat its first token: causal attention never looks there.
    ``lengths``: for each block the lengths of its rows, int64 [rows].
    ``slot_of_token``: int64 [T], where each token's output stands in the flattened, concatenated blocks; of several
    rows that share the token, any one will do.
    ``select``: int64 [N], the tokens whose hidden states predict the trained tokens ``labels``, int64 [N].
    ``examples``: the rows themselves.
    """

    input_ids: Tensor
    position_ids: Tensor
    blocks: tuple[Tensor, ...]
    lengths: tuple[Tensor, ...]
    slot_of_token: Tensor
    select: Tensor
    labels: Tensor
    examples: tuple[Example, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """The places of the rows in their files, such as ``train.jsonl:12``."""
        return tuple(example.row for example in self.examples)

    @property
    def tokens(self) -> int:
        """Number of tokens in all rows; shared ones count once per row."""
        return sum(len(example.input_ids) for example in self.examples)

    @property
    def longest(self) -> int:
        """The length of the longest row in tokens."""
        return max(len(example.input_ids) for example in self.examples)

    def row_lengths(self) -> Tensor:
        """Return, int64 [T], the length in tokens of a row that holds each token."""
        per_slot = [
            lengths[:, None].expand(grid.shape).flatten()
            for grid, lengths in zip(self.blocks, self.lengths, strict=True)
        ]
        return torch.cat(per_slot).index_select(0, self.slot_of_token)

    def to(self, device: torch.device) -> MicroBatch:
        """Return the same batch with every tensor on ``device``."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            blocks=tuple(tensor.to(device) for tensor in self.blocks),
            lengths=tuple(tensor.to(device) for tensor in self.lengths),
            slot_of_token=self.slot_of_token.to(device),
            select=self.select.to(device),
            labels=self.labels.to(device),
        )


class _CausalAttention(torch.autograd.Function):
    """Causal attention of one block on CPU: q [b, H, L, D], k and v [b, KV, L, D] -> [b, H, L, D]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        # the CPU kernel knows no grouped heads: repeat each key head for its query heads
        wide_k, wide_v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
        out, lse = _flash_forward(q, wide_k, wide_v, 0.0, True, scale=scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.scale = scale
        result: Tensor = out
        return result

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        d_out = grad_outputs[0]
        batch, heads, length, width = q.shape
        groups = heads // k.shape[1]
        # Stack the query heads that share a key head along the length: one product then serves all of them, and
        # dK and dV come out summed over the group.
        lead = batch * k.shape[1]
        stacked = [t.reshape(lead, groups * length, width) for t in (q, out, d_out)]
        keyed = [t.reshape(lead, length, width) for t in (k, v)]
        lse = lse.reshape(lead, groups * length, 1)
        dq, dk, dv = torch.empty_like(stacked[0]), torch.empty_like(keyed[0]), torch.empty_like(keyed[1])
        for part in _slices(lead, groups * length * length * 4):  # bytes of the fp32 scores of one key head
            qf, of, df = (t[part].float() for t in stacked)
            kf, vf = (t[part].float() for t in keyed)
            delta = (df * of).sum(-1, keepdim=True)  # rowsum(dO * O)
            # P = exp(scale Q K^T - lse); the future is zeroed after exp, since masking before it costs one more pass
            p = torch.baddbmm(lse[part], qf, kf.transpose(1, 2), beta=-1, alpha=ctx.scale).exp_()
            p.view(-1, groups, length, length).tril_()
            dv[part] = torch.bmm(p.transpose(1, 2), df)
            # dS = P * (dO V^T - delta); zero in the future, since P is
            ds = torch.baddbmm(delta, df, vf.transpose(1, 2), beta=-1).mul_(p)
            dq[part] = torch.bmm(ds, kf).mul_(ctx.scale)
            dk[part] = torch.bmm(ds.transpose(1, 2), qf).mul_(ctx.scale)
        return dq.view_as(q), dk.view_as(k), dv.view_as(v), None


def _slices(lead: int, bytes_each: int) -> Iterator[slice]:
    """Cut ``lead`` items of ``bytes_each`` into slices of at most ``BACKWARD_BYTES``, of one item at least."""
    size = max(1, BACKWARD_BYTES // max(1, bytes_each))
    for start in range(0, lead, size):
        yield slice(start, start + size)


class _Gather(torch.autograd.Function):
    """Rows of ``source`` [T, C] at ``index`` [n].

    A token shared by many rows gets a gradient from each. They are summed in fp32 and in index order: torch's own
    backward of ``index_select`` sums in the precision of the states.
    """

    @staticmethod
    def forward(ctx: Any, source: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = source.shape
        return source.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        grad = grad_outputs[0]
        summed = torch.zeros(ctx.shape, dtype=torch.float32, device=grad.device)
        summed.index_add_(0, index, grad.float())
        return summed.to(grad.dtype), None


def attend(q: Tensor, k: Tensor, v: Tensor, batch: MicroBatch, scale: float) -> Tensor:
    """Causal attention within every row of ``batch``: q [H, T, D], k and v [KV, T, D] -> [T, H, D]."""
    heads, tokens, width = q.shape
    # [T, heads * D]: gathering then copies one contiguous stretch per token
    flat = [t.transpose(0, 1).reshape(tokens, -1) for t in (q, k, v)]
    outputs: list[Tensor] = []
    for block in batch.blocks:
        rows, length = block.shape
        index = block.reshape(-1)
        q_rows, k_rows, v_rows = (
            _Gather.apply(t, index).view(rows, length, -1, width).transpose(1, 2) for t in flat
        )
        outputs.append(
            _attend_block(q_rows, k_rows, v_rows, scale).transpose(1, 2).reshape(rows * length, heads * width)
        )
    per_slot = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return per_slot.index_select(0, batch.slot_of_token).view(tokens, heads, width)


def _attend_block(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    if q.device.type == "cpu":
        attended: Tensor = _CausalAttention.apply(q, k, v, scale)
        return attended
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)


_windows: ContextVar[list[int] | None] = ContextVar("windows", default=None)


@contextmanager
def noted_windows() -> Iterator[list[int]]:
    """Collect the window and chunk lengths, in tokens, that attention layers ask for inside the block."""
    windows: list[int] = []
    token = _windows.set(windows)
    try:
        yield windows
    finally:
        _windows.reset(token)


def _note(window: int | None) -> None:
    noted = _windows.get()
    if noted is not None and window:  # some configurations use 0 for "no window"
        noted.append(window)


def packed_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packed: MicroBatch | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: query [1, H, T, D] -> ([1, T, H, D], no weights).

    Raises ValueError for what packed rows do not support (a sliding window shorter than the rows, capped scores,
    attention sinks, dropout), so that the caller can fall back to padded rows.
    """
    window = options.get("sliding_window")
    _note(window)
    if packed is None or attention_mask is not None:
        raise ValueError("packed attention needs the packed batch and no mask")
    if options.get("softcap") is not None or options.get("s_aux") is not None or options.get("dropout", 0.0):
        raise ValueError("this model's attention cannot be packed")
    if window and window < max(block.shape[1] for block in packed.blocks):
        raise ValueError("this model's sliding window is shorter than the rows")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast the rotated ones are fp32
    return attend(query[0], key[0], value[0], packed, scale).unsqueeze(0), None


def register() -> str:
    """Register packed attention with transformers and return its name there."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    return NAME


def _no_mask(*_: Any, local_size: int | None = None, **__: Any) -> None:
    """Build no mask, since packed attention is causal by itself; note a mask limited to ``local_size`` tokens."""
    _note(local_size)
