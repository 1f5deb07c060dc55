"""LoRA layers computed in one function: one product with the frozen weight, two thin ones, no fp32 copies.

PEFT's own layer casts its input to fp32 and adds a full-size fp32 update, several passes over memory. The
mathematics is the same (LoRA, Hu et al., 2021, arXiv:2106.09685): y = x W^T + s (x A^T) B^T, with A and B kept
in fp32 and used in the precision of x.
"""

from __future__ import annotations

import threading
import types
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import ParamWrapper
from torch import Tensor, nn

_EXPERTS = threading.RLock()


class _FusedLora(torch.autograd.Function):
    """y [..., out] of x [..., in]: frozen weight [out, in] and bias, a [r, in], b [out, r], scale s."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low_a, low_b = a.to(x.dtype), (b * scale).to(x.dtype)
        inner = flat @ low_a.t()
        y = F.linear(flat, weight, bias).addmm_(inner, low_b.t())
        ctx.save_for_backward(flat, weight, low_a, low_b, inner)
        ctx.scale, ctx.shape = scale, x.shape
        # some models add to what comes out in place, which autograd forbids for a view; y is not used again
        whole: Tensor = torch.ops.aten._unsafe_view.default(y, [*x.shape[:-1], y.shape[-1]])
        return whole

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, low_a, low_b, inner = ctx.saved_tensors
        dy = grad_outputs[0].reshape(-1, weight.shape[0])
        d_inner = dy @ low_b
        da = (d_inner.t() @ flat).float()
        db = (dy.t() @ inner).float().mul_(ctx.scale)
        dx = (dy @ weight).addmm_(d_inner, low_a).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return dx, None, None, da, db, None


def _forward(self: LoraLinear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    name = _fusible_adapter(self)
    if name is None or args or kwargs:
        plain: Tensor = type(self).forward(self, x, *args, **kwargs)
        return plain
    base = self.get_base_layer()
    fused: Tensor = _FusedLora.apply(
        x, base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
    )
    return fused


def _fusible_adapter(layer: LoraLinear) -> str | None:
    """The adapter's name when this layer is plain LoRA right now: one active adapter, unmerged, no extras."""
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return None
    name: str = layer.active_adapters[0]
    plain = (
        name in layer.lora_A
        and name not in layer.lora_variant
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and layer.lora_B[name].bias is None
    )
    return name if plain else None


def fuse_lora(model: nn.Module) -> int:
    """Let every plain LoRA linear layer of ``model`` compute fused; returns how many do.

    Layers with dropout, DoRA or several adapters keep PEFT's own computation, decided at each call.
    """
    fused = 0
    for layer in model.modules():
        if isinstance(layer, LoraLinear) and type(layer.get_base_layer()) is nn.Linear:
            layer.forward = types.MethodType(_forward, layer)
            fused += 1
    return fused


def run_experts_in_turn(model: nn.Module) -> None:
    """Let one thread at a time compute adapted experts of ``model``.

    PEFT lays their update over the weights while it computes and takes it off again; threads side by side would
    see each other's.
    """
    for layer in model.modules():
        if isinstance(layer, ParamWrapper):
            layer.forward = types.MethodType(_in_turn, layer)


def _in_turn(self: ParamWrapper, *args: Any, **kwargs: Any) -> Any:
    with _EXPERTS:
        return type(self).forward(self, *args, **kwargs)
