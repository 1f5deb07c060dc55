"""LoRA linear layers as one autograd function, without fp32 copies of activations.

PEFT's own layer casts its input to fp32 and adds a full-size fp32 update: several passes over memory. The mathematics
is the same (LoRA, Hu et al., 2021, arXiv:2106.09685): y = x W^T + s (x A^T) B^T, with A and B stored in fp32 and cast
to the precision of x.
"""

from __future__ import annotations

import threading
import types
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor, nn

from backend.core.quantized import dense_weight, is_packed

_EXPERTS = threading.RLock()


class _FusedLora(torch.autograd.Function):
    """y [..., out] of x [..., in]: a frozen ``base`` with a weight [out, in], a [r, in], b [out, r], scale s.

    A weight in 4 or 8 bits is unpacked here and again in the backward pass, and not kept in between.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: nn.Linear, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low_a, low_b = a.to(x.dtype), (b * scale).to(x.dtype)
        inner = flat @ low_a.t()
        y = F.linear(flat, dense_weight(base, x.dtype), base.bias)
        y.addmm_(inner, low_b.t())  # adds the update into the output, no second buffer
        ctx.save_for_backward(flat, low_a, low_b, inner)
        ctx.base, ctx.scale, ctx.shape = base, scale, x.shape
        # Some models modify the output in place, which autograd forbids for a view that a custom function returns.
        # An unsafe view is not tracked as one; y itself is never used again.
        whole: Tensor = torch.ops.aten._unsafe_view.default(y, [*x.shape[:-1], y.shape[-1]])
        return whole

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        flat, low_a, low_b, inner = ctx.saved_tensors
        dy = grad_outputs[0].reshape(-1, low_b.shape[0])
        # low_b holds the factor s already, so dx and da have it; db is the gradient of b alone and needs it here
        d_inner = dy @ low_b
        da = (d_inner.t() @ flat).float()
        db = (dy.t() @ inner).float().mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            weight = dense_weight(ctx.base, dy.dtype)
            dx = (dy @ weight).addmm_(d_inner, low_a).view(ctx.shape)
        return dx, None, da, db, None


def _forward(self: LoraLayer, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    name = plain_adapter(self)
    if name is None or args or kwargs:
        plain: Tensor = type(self).forward(self, x, *args, **kwargs)
        return plain
    base = self.get_base_layer()
    fused: Tensor = _FusedLora.apply(
        x, base, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
    )
    return fused


def plain_adapter(layer: LoraLayer, *, at_rest: bool = False) -> str | None:
    """Return the adapter's name if the layer is plain LoRA now: one adapter, unmerged, no variant, no dropout.

    ``at_rest``: the model does not train, so dropout does nothing.
    """
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return None
    name: str = layer.active_adapters[0]
    plain = (
        name in layer.lora_A
        and name not in layer.lora_variant
        and (at_rest or isinstance(layer.lora_dropout[name], nn.Identity))
        and layer.lora_B[name].bias is None
    )
    return name if plain else None


def fuse_lora(model: nn.Module) -> int:
    """Make the plain LoRA linear layers of ``model`` use the fused function; return how many were patched.

    Each call decides anew: with dropout, DoRA or several adapters a layer uses PEFT's own computation.
    """
    fused = 0
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and _has_plain_product(layer):
            layer.forward = types.MethodType(_forward, layer)
            fused += 1
    return fused


def _has_plain_product(layer: LoraLayer) -> bool:
    """Return whether the base layer computes a product with its weight and nothing else, packed or not."""
    base = layer.get_base_layer()
    return is_packed(base) or (isinstance(layer, LoraLinear) and type(base) is nn.Linear)


def run_experts_in_turn(model: nn.Module) -> None:
    """Make adapted experts of ``model`` run in one thread at a time.

    PEFT adds their update to the weights for the time of the forward pass and removes it again, so parallel threads
    would see each other's.
    """
    for layer in model.modules():
        if isinstance(layer, ParamWrapper):
            layer.forward = types.MethodType(_in_turn, layer)


def _in_turn(self: ParamWrapper, *args: Any, **kwargs: Any) -> Any:
    with _EXPERTS:
        return type(self).forward(self, *args, **kwargs)
