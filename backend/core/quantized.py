"""Frozen weights of linear layers in 4 or 8 bits, by bitsandbytes: QLoRA (Dettmers et al., 2023, arXiv:2305.14314).

A packed layer unpacks its weight for a product and again for the gradient of its input, and computes both in the
precision of the input. Activations are never rounded, also not for 8 bits, where LLM.int8() would round them together
with those of other rows. So a packed model computes exactly what a plain one with the same rounded weights does, and
where memory allows it, that plain one is used instead: see ``round_weights``.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from backend.run.config import ModelConfig

BLOCK = 64
"""Weights that share one scale in 4 bits."""


@dataclass(frozen=True)
class Quantization:
    """How the linear weights of a base are stored: ``kind`` is nf4, fp4 or int8.

    ``nested``: the scales of 4-bit weights are themselves stored in 8 bits. ``dtype``: float32 or bfloat16, the
    precision that a weight has before it is packed and after; it decides the last bits of the rounded values.
    """

    kind: str
    nested: bool
    dtype: torch.dtype

    @classmethod
    def of(cls, model: ModelConfig, dtype: torch.dtype) -> Quantization | None:
        """Return that of a run which computes in ``dtype``; None for plain weights."""
        kind = model.quantization
        return None if kind is None else cls(kind, model.use_bnb_nested_quant, dtype)

    @property
    def words(self) -> str:
        """The quantization as part of a sentence."""
        bits = "8 bits (int8)" if self.kind == "int8" else f"4 bits ({self.kind})"
        return f"{bits}, nested" if self.nested else bits

    def settings(self) -> BitsAndBytesConfig:
        """Return what ``from_pretrained`` of transformers takes as ``quantization_config``."""
        if self.kind == "int8":
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.kind,
            bnb_4bit_use_double_quant=self.nested,
            bnb_4bit_compute_dtype=self.dtype,
        )


def is_packed(layer: nn.Module) -> bool:
    """Return whether ``layer`` is a linear layer whose weight is stored in 4 or 8 bits."""
    return isinstance(layer, nn.Linear) and not layer.weight.is_floating_point()


def dense_weight(layer: nn.Linear, dtype: torch.dtype) -> Tensor:
    """Return the weight [out, in] of a linear layer in ``dtype``: its own, or a new tensor if it is packed."""
    weight: Any = layer.weight
    if not is_packed(layer):
        return layer.weight
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant  # noqa: PLC0415 - an extra

    if hasattr(weight, "quant_state"):
        unpacked: Tensor = dequantize_4bit(weight.data, weight.quant_state)
    else:
        unpacked = int8_vectorwise_dequant(weight.data, weight.SCB)
    return unpacked.to(dtype)


class _PackedLinear(torch.autograd.Function):
    """y [..., out] of x [..., in] for a packed ``layer``, whose weight is not kept unpacked for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Linear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, dense_weight(layer, x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (dy,) = grad_outputs
        return dy @ dense_weight(ctx.layer, dy.dtype), None


def _forward(self: nn.Linear, x: Tensor) -> Tensor:
    product: Tensor = _PackedLinear.apply(x, self)
    return product


def compute_exactly(model: nn.Module, dtype: torch.dtype) -> None:
    """Make the packed layers of ``model`` compute as this module says; their biases become ``dtype``.

    bitsandbytes' own 4-bit layer must not be used: in eval mode without gradients, on processors with AVX512-BF16, it
    repacks its weight for good, and from then on its input gets no gradient, without any error. The attribute that
    allows this is cleared too, for whoever calls that class itself.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and is_packed(layer):
            layer.forward = types.MethodType(_forward, layer)  # type: ignore[method-assign]
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
            if layer.bias is not None:
                layer.bias.data = layer.bias.data.to(dtype)


def round_weights(model: PreTrainedModel, quantization: Quantization) -> None:
    """Give a plain model the values that its weights have after ``quantization``, in place and in its own precision.

    They equal those of the packed model bit for bit if the model's precision is at least that of ``quantization``.
    """
    for layer in _layers_to_pack(model):
        weight = layer.weight.data.t() if isinstance(layer, Conv1D) else layer.weight.data  # [out, in]
        rounded = _rounded(weight.to(quantization.dtype).contiguous(), quantization)
        weight.copy_(rounded)


def _layers_to_pack(model: PreTrainedModel) -> Iterator[nn.Linear | Conv1D]:
    """Yield the layers that transformers packs: linear ones except the head, in whose place embeddings may stand."""
    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    for name, layer in model.named_modules():
        if (type(layer) is nn.Linear or isinstance(layer, Conv1D)) and should_convert_module(name, kept):
            yield layer


def _rounded(weight: Tensor, quantization: Quantization) -> Tensor:
    """Return ``weight`` [out, in] packed and unpacked again, in the precision of ``quantization``."""
    from bitsandbytes import functional  # noqa: PLC0415 - an extra

    if quantization.kind == "int8":
        packed, scales, _ = functional.int8_vectorwise_quant(weight.half())
        unpacked: Tensor = functional.int8_vectorwise_dequant(packed, scales)
    else:
        packed, state = functional.quantize_4bit(
            weight, blocksize=BLOCK, compress_statistics=quantization.nested, quant_type=quantization.kind
        )
        unpacked = functional.dequantize_4bit(packed, state)
    return unpacked.to(quantization.dtype)
