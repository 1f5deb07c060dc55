"""A decoder layer of the Llama family as one autograd function, with its backward pass written out.

Of what lies between input and output only what is dear is kept: queries, keys and values, the output of attention,
gate and up. Norms, rotations back, the SwiGLU product and the attention weights are computed again.

    n = norm(x)              m = x + O attend(rotate(Q n), rotate(K n), V n)
    n' = norm(m)             y = m + D (silu(G n') * U n')

Each of the products Q, K, V, O, G, U, D may have a bias and a LoRA update (Hu et al., 2021, arXiv:2106.09685), whose
matrices are float32 and cast to the precision of x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.core.engine.causal_attention import attend, attend_backward
from backend.core.engine.elementwise import add_norm, norm_backward, rotate_, swiglu, swiglu_backward
from backend.core.packed_attention import MicroBatch


class Linear(NamedTuple):
    """y = x W^T + bias + scale (x A^T) B^T: weight [out, in], a [r, in], b [out, r]; the last three may be absent."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor | None
    b: Tensor | None
    scale: float


class Norms(NamedTuple):
    """The weights of the norms before attention and before the MLP, and of those of query and key heads, if any."""

    attention: Tensor
    mlp: Tensor
    query: Tensor | None
    key: Tensor | None


@dataclass(frozen=True)
class Place:
    """What the layers of one pass share: the rows, the rotary angles, and the shape of a head.

    ``cos``, ``sin``: float32 [T, width / 2]. ``scale`` multiplies the scores of attention. With ``recompute`` a layer
    keeps its input alone and computes the rest again in the backward pass.
    """

    batch: MicroBatch
    cos: Tensor
    sin: Tensor
    width: int
    scale: float
    eps: float
    recompute: bool = False


def run_layer(x: Tensor, place: Place, norms: Norms, linears: Sequence[Linear]) -> Tensor:
    """Return the output [T, h] of a layer for its input x [T, h]; ``linears`` are Q, K, V, O, G, U, D.

    Differentiable in x and in every weight that requires a gradient.
    """
    scales = tuple(linear.scale for linear in linears)
    weights = [part for linear in linears for part in linear[:4]]
    y: Tensor = _Layer.apply(x, place, scales, *norms, *weights)  # type: ignore[no-untyped-call]
    return y


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, place: Place, scales: Sequence[float], *weights: Tensor | None
    ) -> Tensor:
        y, kept = _forward(x, place, *_parts(weights, scales))
        ctx.save_for_backward(x, *weights, *(() if place.recompute else kept))
        ctx.place, ctx.scales, ctx.weights = place, scales, len(weights)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        weights, kept = rest[: ctx.weights], rest[ctx.weights :]
        norms, linears = _parts(weights, ctx.scales)
        wanted = ctx.needs_input_grad
        if ctx.place.recompute:
            kept = _forward(x, ctx.place, norms, linears)[1]
        found = _Gradients(norms, linears, wanted[3:])
        dx = _backward(grad_outputs[0].contiguous(), x, ctx.place, found, kept, wanted[0])
        return dx, None, None, *found.all()


def _parts(weights: Sequence[Any], scales: Sequence[float]) -> tuple[Norms, list[Linear]]:
    """Return norms and products from the flat list that autograd passes on."""
    linears = [
        Linear(*weights[first : first + 4], scale)  # type: ignore[call-arg]
        for first, scale in zip(range(len(Norms._fields), len(weights), 4), scales, strict=True)
    ]
    return Norms(*weights[: len(Norms._fields)]), linears


def _forward(
    x: Tensor, place: Place, norms: Norms, linears: Sequence[Linear]
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return the output of the layer and what the backward pass needs."""
    _, normed = add_norm(x, None, norms.attention, place.eps)
    (q, k, v), inner = _products(normed, linears[:3])
    if norms.query is None or norms.key is None:  # otherwise the gradient needs them as they are now
        q, k = rotate_(q, place.cos, place.sin), rotate_(k, place.cos, place.sin)
    out = attend(*_placed(q, k, norms, place), v, place.batch, place.width, place.scale)
    (delta,), inner_out = _products(out, linears[3:4])
    middle, normed = add_norm(x, delta, norms.mlp, place.eps)
    (gate, up), inner_mlp = _products(normed, linears[4:6])
    (delta,), inner_down = _products(swiglu(gate, up), linears[6:])
    return delta.add_(middle), (q, k, v, inner, out, inner_out, middle, gate, up, inner_mlp, inner_down)


def _placed(q: Tensor, k: Tensor, norms: Norms, place: Place) -> tuple[Tensor, Tensor]:
    """Return queries and keys as attention takes them: normed head by head where there are norms, and rotated."""
    if norms.query is None or norms.key is None:
        return q, k
    normed = [
        add_norm(each.view(-1, place.width), None, weight, place.eps)[1].view_as(each)
        for each, weight in ((q, norms.query), (k, norms.key))
    ]
    return rotate_(normed[0], place.cos, place.sin), rotate_(normed[1], place.cos, place.sin)


def _backward(
    dy: Tensor, x: Tensor, place: Place, found: _Gradients, kept: Sequence[Any], with_input: bool
) -> Tensor | None:
    """Add the gradients of the weights to ``found`` and return that of x, if it is wanted."""
    q, k, v, inner, out, inner_out, middle, gate, up, inner_mlp, inner_down = kept
    norms, eps = found.norms, place.eps
    d_product, d_inner = found.of_input([dy], slice(6, 7))
    d_gate, d_up, product = swiglu_backward(gate, up, d_product)
    found.of_weights([dy], slice(6, 7), product, inner_down, d_inner)
    d_normed, d_inner = found.of_input([d_gate, d_up], slice(4, 6))
    normed = add_norm(middle, None, norms.mlp, eps)[1]
    found.of_weights([d_gate, d_up], slice(4, 6), normed, inner_mlp, d_inner)
    d_middle = norm_backward(d_normed, middle, norms.mlp, eps, dy)
    found.of_norm("mlp", d_normed, middle, eps)
    d_out, d_inner = found.of_input([d_middle], slice(3, 4))
    found.of_weights([d_middle], slice(3, 4), out, inner_out, d_inner)
    placed = _placed(q, k, norms, place)
    dq, dk, dv = attend_backward(d_out, *placed, v, place.batch, place.width, place.scale)
    dq, dk = (rotate_(each, place.cos, place.sin, back=True) for each in (dq, dk))
    if norms.query is not None and norms.key is not None:
        heads = [each.view(-1, place.width) for each in (dq, dk, q, k)]
        found.of_norm("query", heads[0], heads[2], eps)
        found.of_norm("key", heads[1], heads[3], eps)
        dq = norm_backward(heads[0], heads[2], norms.query, eps).view_as(dq)
        dk = norm_backward(heads[1], heads[3], norms.key, eps).view_as(dk)
    normed = add_norm(x, None, norms.attention, eps)[1]
    if not (with_input or found.wants_norm("attention")):
        found.of_weights([dq, dk, dv], slice(0, 3), normed, inner, found.of_inner([dq, dk, dv], slice(0, 3)))
        return None
    d_normed, d_inner = found.of_input([dq, dk, dv], slice(0, 3))
    found.of_weights([dq, dk, dv], slice(0, 3), normed, inner, d_inner)
    found.of_norm("attention", d_normed, x, eps)
    return norm_backward(d_normed, x, norms.attention, eps, d_middle)


def _products(x: Tensor, linears: Sequence[Linear]) -> tuple[list[Tensor], Tensor | None]:
    """Return the products of x [T, in] with several weights, and x A^T of all their adapters side by side [T, R]."""
    every = _cat([linear.a.to(x.dtype) for linear in linears if linear.a is not None])
    inner = None if every is None else x @ every.t()
    outputs = [F.linear(x, linear.weight, linear.bias) for linear in linears]
    if inner is not None:
        for y, linear, own in zip(outputs, linears, _columns(inner, linears), strict=True):
            if own is not None:
                y.addmm_(own, _scaled(linear, x.dtype).t())
    return outputs, inner


def _columns(inner: Tensor, linears: Sequence[Linear]) -> list[Tensor | None]:
    """Return the columns of ``inner`` [T, R] that belong to each of ``linears``."""
    widths = [0 if linear.a is None else len(linear.a) for linear in linears]
    return [own if own.shape[1] else None for own in torch.split(inner, widths, dim=1)]


def _scaled(linear: Linear, dtype: torch.dtype) -> Tensor:
    """Return scale * B in ``dtype``; the linear must have an adapter."""
    assert linear.b is not None  # noqa: S101 - A and B come together
    return (linear.b * linear.scale).to(dtype)


def _cat(parts: Sequence[Tensor]) -> Tensor | None:
    if len(parts) < 2:
        return parts[0] if parts else None
    return torch.cat(list(parts))


class _Gradients:
    """The gradients of all weights of a layer, each computed only if it is wanted."""

    def __init__(self, norms: Norms, linears: Sequence[Linear], wanted: Sequence[bool]) -> None:
        self.norms, self._linears, self._wanted = norms, linears, wanted
        self._found: list[Tensor | None] = [None] * len(wanted)

    def all(self) -> list[Tensor | None]:
        """Return the gradients in the order of the weights."""
        return self._found

    def wants_norm(self, name: str) -> bool:
        """Return whether the weight of this norm is trained."""
        return self._wanted[Norms._fields.index(name)]

    def of_norm(self, name: str, d_normed: Tensor, x: Tensor, eps: float) -> None:
        """Note the gradient of the weight of a norm of x, given that of what it returned."""
        if self.wants_norm(name):
            wide = x.float()
            rate = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
            self._found[Norms._fields.index(name)] = (d_normed.float() * wide * rate).sum(0).to(x.dtype)

    def of_inner(self, dys: Sequence[Tensor], part: slice) -> Tensor | None:
        """Return the gradient of x A^T, [T, R], given those of the products ``part``."""
        adapted = [
            (dy, each) for dy, each in zip(dys, self._linears[part], strict=True) if each.a is not None
        ]
        each_inner = [dy @ _scaled(linear, dy.dtype) for dy, linear in adapted]
        return torch.cat(each_inner, dim=1) if len(each_inner) > 1 else next(iter(each_inner), None)

    def of_input(self, dys: Sequence[Tensor], part: slice) -> tuple[Tensor, Tensor | None]:
        """Return the gradient of the input of the products ``part``, and that of x A^T."""
        linears = self._linears[part]
        dx = dys[0] @ linears[0].weight
        for dy, linear in zip(dys[1:], linears[1:], strict=True):
            dx.addmm_(dy, linear.weight)
        d_inner = self.of_inner(dys, part)
        every = _cat([linear.a.to(dx.dtype) for linear in linears if linear.a is not None])
        if d_inner is not None and every is not None:
            dx.addmm_(d_inner, every)
        return dx, d_inner

    def of_weights(
        self, dys: Sequence[Tensor], part: slice, x: Tensor, inner: Tensor | None, d_inner: Tensor | None
    ) -> None:
        """Note the gradients of the weights of the products ``part`` of x."""
        linears = self._linears[part]
        inners = [None] * len(linears) if inner is None else _columns(inner, linears)
        da = None if d_inner is None else (d_inner.t() @ x).float()
        d_as = [None] * len(linears) if da is None else _columns(da.t(), linears)
        for number, (dy, linear, own, d_a) in enumerate(
            zip(dys, linears, inners, d_as, strict=True), part.start
        ):
            place = len(Norms._fields) + 4 * number
            weight, bias, a, b = self._wanted[place : place + 4]
            if weight:
                self._found[place] = dy.t() @ x
            if bias:
                self._found[place + 1] = dy.float().sum(0).to(dy.dtype)
            if a and d_a is not None:
                self._found[place + 2] = d_a.t()
            if b and own is not None:
                self._found[place + 3] = (dy.t() @ own).float().mul_(linear.scale)
