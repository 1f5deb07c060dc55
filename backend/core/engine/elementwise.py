"""The element-wise parts of a decoder layer, forward and backward, native and in plain torch.

Tensors are float32 or bfloat16; inside, numbers are float32. What the kernels cannot read goes to the twins.
"""

from __future__ import annotations

from ctypes import c_float, c_int64, c_void_p
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.core.engine.library import fits, function

_SUFFIX = {torch.float32: "f32", torch.bfloat16: "b16"}


def _native(name: str, tensors: tuple[Tensor, ...], *arguments: Any) -> Any:
    """Return the kernel ``name`` for the precision of ``tensors``; None if it cannot read them."""
    dtype = tensors[0].dtype
    if dtype not in _SUFFIX or not fits(tensors, dtype):
        return None
    return function(f"{name}_{_SUFFIX[dtype]}", *arguments)


def add_norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return s = x + delta, or x itself without ``delta``, and s / sqrt(mean(s²) + eps) * weight; x [rows, width]."""
    given = (x, weight) if delta is None else (x, weight, delta)
    native = _native("add_norm", given, *[c_void_p] * 5, c_int64, c_int64, c_float)
    if native is None:
        return add_norm_twin(x, delta, weight, eps)
    total, normed = x if delta is None else torch.empty_like(x), torch.empty_like(x)
    added = None if delta is None else delta.data_ptr()
    native(
        x.data_ptr(), added, weight.data_ptr(), total.data_ptr(), normed.data_ptr(), *x.shape, eps
    )  # fmt: skip
    return total, normed


def add_norm_twin(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``add_norm`` in plain torch."""
    total = x if delta is None else x + delta
    wide = total.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()
    return total, normed.to(x.dtype)


def norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> Tensor:
    """Return the gradient of x [rows, width] given ``dy``, that of its norm, plus ``residual``.

    With r = 1 / sqrt(mean(x²) + eps) and g = dy * weight it is r g - x r³ mean(g x).
    """
    given = (x, weight, dy) if residual is None else (x, weight, dy, residual)
    native = _native("norm_backward", given, *[c_void_p] * 5, c_int64, c_int64, c_float)
    if native is None:
        return norm_backward_twin(dy, x, weight, eps, residual)
    dx, kept = torch.empty_like(x), None if residual is None else residual.data_ptr()
    native(dy.data_ptr(), x.data_ptr(), weight.data_ptr(), kept, dx.data_ptr(), *x.shape, eps)
    return dx


def norm_backward_twin(
    dy: Tensor, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> Tensor:
    """``norm_backward`` in plain torch."""
    wide, gradient = x.float(), dy.float() * weight.float()
    rate = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    dx = rate * (gradient - wide * rate.square() * (gradient * wide).mean(-1, keepdim=True))
    return (dx if residual is None else dx + residual.float()).to(x.dtype)


def rotate_(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    """Rotate the heads of x [rows, heads * width] in place by angles, float32 [rows, width / 2] each; return x.

    It is that of RoFormer (Su et al., 2021, arXiv:2104.09864), with the halves of a head paired as in GPT-NeoX.
    ``back`` rotates the other way round, which is the gradient.
    """
    rows, half = cos.shape
    native = _native("rotate", (x,), *[c_void_p] * 3, *[c_int64] * 3, c_float)
    if native is None or not fits((cos, sin)):
        return rotate_twin_(x, cos, sin, back=back)
    native(
        x.data_ptr(),
        cos.data_ptr(),
        sin.data_ptr(),
        rows,
        x.shape[1] // (2 * half),
        half,
        -1.0 if back else 1.0,
    )
    return x


def rotate_twin_(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    """``rotate_`` in plain torch."""
    rows, half = cos.shape
    first, second = x.view(rows, x.shape[1] // (2 * half), 2, half).float().unbind(2)
    c, s = cos[:, None], -sin[:, None] if back else sin[:, None]
    x.copy_(torch.stack([first * c - second * s, second * c + first * s], 2).view_as(x))
    return x


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up (Shazeer, 2020, arXiv:2002.05202), elementwise."""
    native = _native("swiglu", (gate, up), *[c_void_p] * 3, c_int64)
    if native is None:
        return swiglu_twin(gate, up)
    product = torch.empty_like(gate)
    native(gate.data_ptr(), up.data_ptr(), product.data_ptr(), gate.numel())
    return product


def swiglu_twin(gate: Tensor, up: Tensor) -> Tensor:
    """``swiglu`` in plain torch."""
    return (F.silu(gate.float()) * up.float()).to(gate.dtype)


def swiglu_backward(gate: Tensor, up: Tensor, d_product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of gate and up, and the product itself, so that it need not be kept."""
    native = _native("swiglu_backward", (gate, up, d_product), *[c_void_p] * 6, c_int64)
    if native is None:
        return swiglu_backward_twin(gate, up, d_product)
    d_gate, d_up, product = (torch.empty_like(gate) for _ in range(3))
    every = (gate, up, d_product, d_gate, d_up, product)
    native(*(each.data_ptr() for each in every), gate.numel())
    return d_gate, d_up, product


def swiglu_backward_twin(gate: Tensor, up: Tensor, d_product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``swiglu_backward`` in plain torch."""
    g, u, d = gate.float(), up.float(), d_product.float()
    s = torch.sigmoid(g)
    silu = g * s
    found = d * u * s * (1 + g * (1 - s)), d * silu, silu * u
    d_gate, d_up, product = (each.to(gate.dtype) for each in found)
    return d_gate, d_up, product


def causal_softmax_(scores: Tensor, first: int, scale: float) -> Tensor:
    """Replace float32 scores [matrices, queries, keys] by softmax(scale * scores) over the keys a query may see.

    Query i of a matrix stands at position ``first`` + i and sees the keys up to there; the others get 0.
    """
    native = _native("causal_softmax", (scores,), c_void_p, *[c_int64] * 4, c_float)
    if native is None:
        return causal_softmax_twin_(scores, first, scale)
    native(scores.data_ptr(), *scores.shape, first, scale)
    return scores


def causal_softmax_twin_(scores: Tensor, first: int, scale: float) -> Tensor:
    """``causal_softmax_`` in plain torch."""
    return scores.copy_(torch.softmax(scores.masked_fill(_future(scores, first), -torch.inf) * scale, -1))


def causal_softmax_backward_(p: Tensor, dp: Tensor, first: int, scale: float) -> Tensor:
    """Replace ``dp``, the gradient of the probabilities ``p``, by that of the scores; see ``causal_softmax_``."""
    native = _native("causal_softmax_backward", (p, dp), c_void_p, c_void_p, *[c_int64] * 4, c_float)
    if native is None:
        return causal_softmax_backward_twin_(p, dp, first, scale)
    native(p.data_ptr(), dp.data_ptr(), *p.shape, first, scale)
    return dp


def causal_softmax_backward_twin_(p: Tensor, dp: Tensor, first: int, scale: float) -> Tensor:
    """``causal_softmax_backward_`` in plain torch."""
    seen = dp.masked_fill_(_future(dp, first), 0.0)
    mean = (seen * p).sum(-1, keepdim=True)
    return seen.sub_(mean).mul_(p).mul_(scale)


def _future(scores: Tensor, first: int) -> Tensor:
    """Return which keys, bool [queries, keys], stand after each query."""
    queries, keys = scores.shape[-2:]
    place = torch.arange(keys, device=scores.device)
    return place[None] > (first + torch.arange(queries, device=scores.device))[:, None]
