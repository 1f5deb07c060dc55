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


def with_adapter(weights: Weights, model: PreTrainedModel, strength: float = 1.0) -> Weights:
    """Return ``weights`` with the adapter in ``model``, which is not merged, beside them, times ``strength``."""

    def beside(matrix: Matrix, part: Any) -> Matrix:
        found = adapter_of(part)
        if found is None:
            return matrix
        return replace(matrix, adapter=(Matrix(found[0]), Matrix(found[1] * strength)))

    def layer(held: LayerWeights, module: Any) -> LayerWeights:
        parts = _matrices(module)
        changed: dict[str, Any] = {name: beside(getattr(held, name), part) for name, part in parts.items()}
        return replace(held, **changed)

    layers = zip(weights.layers, model.model.layers, strict=False)
    return replace(weights, layers=tuple(layer(*each) for each in layers))


def is_stored_in_bfloat16(model: PreTrainedModel) -> bool:
    """Return True if every weight of ``model`` is float32 and has a value that bfloat16 holds without rounding."""
    return all(
        part.dtype == torch.float32 and not bool((part.data.view(torch.int32) & 0xFFFF).any())
        for part in model.parameters()
    )


def _matrices(module: Any) -> dict[str, Any]:
    """Return the modules of the matrices of a layer by the names of ``LayerWeights``."""
    attention, mlp = module.self_attn, module.mlp
    return {
        "query": attention.q_proj, "key": attention.k_proj, "value": attention.v_proj, "output": attention.o_proj,
        "gate": mlp.gate_proj, "up": mlp.up_proj, "down": mlp.down_proj,
    }  # fmt: skip


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
        attention = module.self_attn
        query_norm, key_norm = (
            None if part is None else norm(part)
            for part in (getattr(attention, "q_norm", None), getattr(attention, "k_norm", None))
        )
        return LayerWeights(
            **{name: matrix(part) for name, part in _matrices(module).items()},
            input_norm=norm(module.input_layernorm),
            attended_norm=norm(module.post_attention_layernorm),
            query_norm=query_norm,
            key_norm=key_norm,
        )

    with torch.inference_mode():
        embedding = model.get_input_embeddings().weight.data
        return Weights(
            layers=tuple(layer(module) for module in list(model.model.layers)[: block.depth]),
            # a tensor that is a part of a mapped file would keep all of it in memory
            embedding=embedding.clone() if eight_bits else embedding.contiguous(),
            norm=norm(model.model.norm),
            head=matrix(model.lm_head),
            sources=sources,
        )
