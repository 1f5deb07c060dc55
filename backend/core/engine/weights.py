"""The weights of a model as the engine reads them: the model's own tensors, or copies of them in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from backend.core.engine.block import Block, adapter_of, base_of
from backend.core.engine.matrix import Matrix, quantised


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """The matrices and norms of one layer; norms are float32, their offset included."""

    query: Matrix
    key: Matrix
    value: Matrix
    output: Matrix
    gate: Matrix
    up: Matrix
    down: Matrix
    input_norm: Tensor
    attended_norm: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None


@dataclass(frozen=True, eq=False)
class Weights:
    """All weights of a model. ``sources`` maps the address of each weight that was read to the matrix made of it."""

    layers: tuple[LayerWeights, ...]
    embedding: Tensor
    norm: Tensor
    head: Matrix
    sources: dict[int, tuple[Tensor, Matrix]]

    @property
    def bytes(self) -> int:
        """Bytes of all matrices, each counted once: what the decoding of one token reads."""
        matrices = [getattr(layer, part.name) for layer in self.layers for part in fields(LayerWeights)]
        return sum(part.bytes for part in [*matrices, self.head] if isinstance(part, Matrix))

    @property
    def rank(self) -> int:
        """The largest rank of an adapter beside a matrix."""
        matrices = [getattr(layer, part.name) for layer in self.layers for part in fields(LayerWeights)]
        return max(part.rank for part in matrices if isinstance(part, Matrix))


def read_weights(
    model: PreTrainedModel, block: Block, *, eight_bits: bool = False, base: Weights | None = None
) -> Weights:
    """Return the weights that ``model`` has now; in ``eight_bits`` a copy, else its own tensors.

    Matrices that the model shares with ``base``, which must be of the same precision, are taken from there. An
    adapter that is not merged stays beside its matrix, in float32.
    """
    held = base.sources if base is not None else {}
    sources: dict[int, tuple[Tensor, Matrix]] = {}

    def matrix(given: Any) -> Matrix:
        plain, adapter = plain_matrix(base_of(given)), adapter_of(given)
        return plain if adapter is None else replace(plain, adapter=(Matrix(adapter[0]), Matrix(adapter[1])))

    def plain_matrix(linear: Any) -> Matrix:
        weight, bias = linear.weight.data, linear.bias
        bias = None if bias is None else bias.data.float().contiguous()
        address = weight.data_ptr()
        if bias is None and address in (known := held | sources):
            sources[address] = known[address]
        else:
            made = quantised(weight, bias) if eight_bits else Matrix(weight.contiguous(), None, bias)
            sources[address] = weight, made
        return sources[address][1]

    def norm(module: Any) -> Tensor:
        weight: Tensor = module.weight.data.float() + block.norm_offset
        return weight.contiguous()

    def layer(module: Any) -> LayerWeights:
        attention, mlp = module.self_attn, module.mlp
        query, key, value, output = (matrix(getattr(attention, f"{name}_proj")) for name in "qkvo")
        query_norm, key_norm = (
            None if part is None else norm(part)
            for part in (getattr(attention, "q_norm", None), getattr(attention, "k_norm", None))
        )
        return LayerWeights(
            *(query, key, value, output),
            *(matrix(mlp.gate_proj), matrix(mlp.up_proj), matrix(mlp.down_proj)),
            *(norm(module.input_layernorm), norm(module.post_attention_layernorm)),
            *(query_norm, key_norm),
        )

    with torch.inference_mode():
        return Weights(
            layers=tuple(layer(module) for module in list(model.model.layers)[: block.depth]),
            embedding=model.get_input_embeddings().weight.data.contiguous(),
            norm=norm(model.model.norm),
            head=matrix(model.lm_head),
            sources=sources,
        )
