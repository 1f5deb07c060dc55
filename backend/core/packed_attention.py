"""Causal attention over packed rows, as a drop-in attention implementation of transformers models.

The model runs on one sequence of distinct tokens (see batching); inside attention the tokens are gathered into
rectangles of rows, attended to causally, and the outputs are read back. Padding exists only in here, where it is
cheap. On CPU the backward pass is written out with batched fp32 matrix products, which measured faster and three
times more accurate than torch's own CPU flash backward in bfloat16.

The gradient follows FlashAttention (Dao et al., 2022, arXiv:2205.14135, algorithm 4): P = exp(S - lse),
dS = P * (dO V^T - rowsum(dO * O)).
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
    """Rows laid out as one sequence of T distinct tokens.

    ``input_ids``, ``position_ids``: int64 [T]. ``cells``: per rectangle an int64 [rows, length], the token
    index of each position of each row; positions past a row's end repeat its first token. ``lengths``: per
    rectangle an int64 [rows]. ``cell_of_token``: int64 [T], where each token's output is read from the
    concatenated rectangles.
    ``select``: int64 [N], token indices whose hidden state predicts the trained token in ``labels`` [N].
    ``examples`` are the rows themselves.
    """

    input_ids: Tensor
    position_ids: Tensor
    cells: tuple[Tensor, ...]
    lengths: tuple[Tensor, ...]
    cell_of_token: Tensor
    select: Tensor
    labels: Tensor
    examples: tuple[Example, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows by name."""
        return tuple(example.row for example in self.examples)

    @property
    def tokens(self) -> int:
        """The tokens of the rows as a person counts them, shared ones every time."""
        return sum(len(example.input_ids) for example in self.examples)

    @property
    def longest(self) -> int:
        """The length of the longest row in tokens."""
        return max(len(example.input_ids) for example in self.examples)

    def row_lengths(self) -> Tensor:
        """int64 [T]: for each token the length in tokens of a row it stands in."""
        cells = [
            lengths[:, None].expand(grid.shape).flatten()
            for grid, lengths in zip(self.cells, self.lengths, strict=True)
        ]
        return torch.cat(cells).index_select(0, self.cell_of_token)

    def to(self, device: torch.device) -> MicroBatch:
        """The same batch with every tensor on ``device``."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            cells=tuple(tensor.to(device) for tensor in self.cells),
            lengths=tuple(tensor.to(device) for tensor in self.lengths),
            cell_of_token=self.cell_of_token.to(device),
            select=self.select.to(device),
            labels=self.labels.to(device),
        )


class _CausalRectangle(torch.autograd.Function):
    """Causal attention of one rectangle on CPU: q [b, H, L, D], k and v [b, KV, L, D] -> [b, H, L, D]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        groups = q.shape[1] // k.shape[1]
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
        lead = batch * k.shape[1]
        stacked = [t.reshape(lead, groups * length, width) for t in (q, out, d_out)]
        keyed = [t.reshape(lead, length, width) for t in (k, v)]
        lse = lse.reshape(lead, groups * length, 1)
        dq, dk, dv = torch.empty_like(stacked[0]), torch.empty_like(keyed[0]), torch.empty_like(keyed[1])
        for part in _slices(lead, groups * length * length * 4):
            qf, of, df = (t[part].float() for t in stacked)
            kf, vf = (t[part].float() for t in keyed)
            delta = (df * of).sum(-1, keepdim=True)
            p = torch.baddbmm(lse[part], qf, kf.transpose(1, 2), beta=-1, alpha=ctx.scale).exp_()
            p.view(-1, groups, length, length).tril_()
            dv[part] = torch.bmm(p.transpose(1, 2), df)
            ds = torch.baddbmm(delta, df, vf.transpose(1, 2), beta=-1).mul_(p)
            dq[part] = torch.bmm(ds, kf).mul_(ctx.scale)
            dk[part] = torch.bmm(ds.transpose(1, 2), qf).mul_(ctx.scale)
        return dq.view_as(q), dk.view_as(k), dv.view_as(v), None


def _slices(lead: int, bytes_each: int) -> Iterator[slice]:
    size = max(1, BACKWARD_BYTES // max(1, bytes_each))
    for start in range(0, lead, size):
        yield slice(start, start + size)


class _Gather(torch.autograd.Function):
    """Rows of ``source`` [T, C] at ``index`` [n]; the gradient adds up in fp32 in index order."""

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
    """Causal attention of every row of ``batch``: q [H, T, D], k and v [KV, T, D] -> [T, H, D]."""
    heads, tokens, width = q.shape
    flat = [t.transpose(0, 1).reshape(tokens, -1) for t in (q, k, v)]
    outputs: list[Tensor] = []
    for cells in batch.cells:
        rows, length = cells.shape
        index = cells.reshape(-1)
        q_rows, k_rows, v_rows = (
            _Gather.apply(t, index).view(rows, length, -1, width).transpose(1, 2) for t in flat
        )
        outputs.append(
            _rectangle(q_rows, k_rows, v_rows, scale).transpose(1, 2).reshape(rows * length, heads * width)
        )
    cell_outputs = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return cell_outputs.index_select(0, batch.cell_of_token).view(tokens, heads, width)


def _rectangle(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    if q.device.type == "cpu":
        attended: Tensor = _CausalRectangle.apply(q, k, v, scale)
        return attended
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)


_windows: ContextVar[list[int] | None] = ContextVar("windows", default=None)


@contextmanager
def noted_windows() -> Iterator[list[int]]:
    """Collect the lengths in tokens of the windows and chunks that the model's layers ask for meanwhile."""
    windows: list[int] = []
    token = _windows.set(windows)
    try:
        yield windows
    finally:
        _windows.reset(token)


def _note(window: int | None) -> None:
    noted = _windows.get()
    if noted is not None and window:  # some configurations say 0 for none
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
    """Attention as transformers calls it: query [1, H, T, D] -> ([1, T, H, D], no weights).

    Raises ValueError when a model asks for something packed rows cannot give (a sliding window shorter than the
    rows, capped scores, attention sinks), so that the caller can fall back to padded rows.
    """
    window = options.get("sliding_window")
    _note(window)
    if packed is None or attention_mask is not None:
        raise ValueError("packed attention needs the packed batch and no mask")
    if options.get("softcap") is not None or options.get("s_aux") is not None or options.get("dropout", 0.0):
        raise ValueError("this model's attention cannot be packed")
    if window and window < max(cells.shape[1] for cells in packed.cells):
        raise ValueError("this model's sliding window is shorter than the rows")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    query, key = query.to(value.dtype), key.to(value.dtype)  # autocast leaves rotated ones in fp32
    return attend(query[0], key[0], value[0], packed, scale).unsqueeze(0), None


def register() -> str:
    """Make packed attention known to transformers and return the name to select it by."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    return NAME


def _no_mask(*_: Any, local_size: int | None = None, **__: Any) -> None:
    """Make no mask; a mask that would hide what is further away than ``local_size`` tokens is noted."""
    _note(local_size)
