"""GGUF's format Q4_0 on tensors: 32 neighbouring weights of a row share a float16 scale and keep 4 bits each."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

BLOCK = 32
"""Weights of a row that share one scale."""


def layers_in_q4_0(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear | nn.Embedding]]:
    """Yield the layers of a plain ``model`` whose weight an export to Q4_0 rounds, by name.

    Those are all but the head and embeddings that share its weight, and rows that do not divide into blocks.
    """
    head = model.get_output_embeddings().weight
    for name, layer in model.named_modules():
        is_rounded = isinstance(layer, nn.Linear | nn.Embedding) and layer.weight is not head
        if is_rounded and layer.weight.shape[1] % BLOCK == 0:
            yield name, layer


@torch.no_grad()
def round_model(model: PreTrainedModel) -> None:
    """Give a plain ``model`` the weights that it has after it was stored in Q4_0, in place."""
    for _, layer in layers_in_q4_0(model):
        layer.weight.copy_(round_q4_0(layer.weight))


def round_q4_0(weight: Tensor) -> Tensor:
    """Return ``weight`` [out, in] in float32 with the values that it has after it was stored in Q4_0.

    Source: ``quantize_row_q4_0_ref`` of llama.cpp. The scale is the weight of largest size, with its sign, by -8;
    each weight becomes one of the sixteen multiples from -8 to 7 of it. The numbers are those of the gguf package,
    bit for bit, and rounding them again does not change them.
    """
    blocks = weight.float().reshape(-1, BLOCK)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = largest / -8
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    steps = (blocks * inverse + 8.5).floor_().clamp_(0, 15).sub_(8)
    return (steps * scale.half().float()).reshape(weight.shape)
