"""What the engine must know of a model to compute it, read off the transformers model: one description for a family.

``describe`` either returns it or says why the engine cannot run the model. It promises nothing about the result: that
is proved by running both (``inference/engines``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from backend.core.fused_lora import plain_adapter

FAMILIES = frozenset(
    f"{family}ForCausalLM" for family in ("Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3", "Gemma")
)
"""Classes of transformers that compute the block of Llama; some add biases, query norms or unrotated layers."""
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
STEADY_ROPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Kinds of rotary positions that do not depend on the length of the row."""
DTYPES = (torch.float32, torch.bfloat16)


class UnsupportedError(Exception):
    """The engine cannot run a model; the text says why."""


@dataclass(frozen=True)
class Block:
    """The sizes and constants of a model. ``rotates`` says of each layer whether it has rotary positions.

    ``norm_offset`` is added to the weights of norms (Gemma stores them minus 1); token vectors are multiplied by
    ``embedding_scale``, products of queries and keys by ``attention_scale``.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int
    vocabulary: int
    eps: float
    activation: str
    attention_scale: float
    embedding_scale: float
    norm_offset: float
    rotates: tuple[bool, ...]

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.rotates)


def describe(model: PreTrainedModel) -> Block:
    """Return the description of ``model``. Raises UnsupportedError for a model that the engine cannot run."""
    kind = type(model)
    _check(
        kind.__name__ in FAMILIES and kind.__module__.startswith("transformers."),
        f"{kind.__name__} is none of the families it knows",
    )
    config: Any = model.config
    layers: list[Any] = list(model.model.layers)[: config.num_hidden_layers]
    _check_plain(model, layers)
    limit = config.max_position_embeddings
    windowed = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    _check(not windowed and (window is None or window >= limit), "its attention has a window")
    rope = config.rope_parameters.get("rope_type")
    _check(rope in STEADY_ROPES, f"its positions depend on the length of the row (rope type {rope})")
    _check(config.hidden_act in ACTIVATIONS, f"its activation is {config.hidden_act}")
    attention, norm = layers[0].self_attn, model.model.norm
    embedding: Any = model.get_input_embeddings()
    scale = getattr(embedding, "embed_scale", 1.0)
    width = attention.head_dim
    _check(width == 2 * model.model.rotary_emb.inv_freq.numel(), "only part of each head is rotated")
    return Block(
        hidden=config.hidden_size,
        heads=base_of(attention.q_proj).out_features // width,
        kv_heads=base_of(attention.k_proj).out_features // width,
        head_width=width,
        inner=base_of(layers[0].mlp.gate_proj).out_features,
        vocabulary=embedding.num_embeddings,
        eps=float(norm.eps if hasattr(norm, "eps") else norm.variance_epsilon),
        activation=ACTIVATIONS[config.hidden_act],
        attention_scale=float(attention.scaling),
        embedding_scale=float(scale),
        norm_offset=1.0 if type(norm).__name__ == "GemmaRMSNorm" else 0.0,
        rotates=tuple(bool(getattr(layer.self_attn, "use_rope", True)) for layer in layers),
    )


def rotary_table(rotary: nn.Module, length: int) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of the first ``length`` positions, float32 [length, head width].

    ``rotary`` is the model's own module, so that every scaling of positions is computed by transformers.
    """
    cosines, sines = rotary(torch.empty(0, dtype=torch.float32), torch.arange(length)[None])
    return cosines[0].contiguous(), sines[0].contiguous()


def _check_plain(model: PreTrainedModel, layers: list[Any]) -> None:
    """Check that weights are plain ones on the CPU, beside plain LoRA at most, and nothing hooks into the model."""
    adapters = {
        id(part) for module in model.modules() if isinstance(module, LoraLayer) for part in _added(module)
    }
    dtypes = {part.dtype for part in model.parameters() if id(part) not in adapters}
    _check(len(dtypes) == 1 and dtypes <= set(DTYPES), "its weights are neither float32 nor bfloat16")
    _check(all(part.device.type == "cpu" for part in model.parameters()), "it is not on the CPU")
    for module in model.modules():
        _check(
            not isinstance(module, AuxiliaryTrainingWrapper), "whole layers are trained beside its adapter"
        )
        hooks: Any = module
        _check(not hooks._forward_hooks and not hooks._forward_pre_hooks, "something is hooked into it")
    linear = [part for layer in layers for half in (layer.self_attn, layer.mlp) for part in projections(half)]
    plain = all(type(part) is nn.Linear for part in [*map(base_of, linear), model.lm_head])
    _check(plain and isinstance(model.get_input_embeddings(), nn.Embedding), "its weights are not plain")
    _check(all(map(_is_plain_lora, linear)), "its adapter is more than a product of two matrices")


def projections(half: Any) -> list[Any]:
    """Return the matrices of an attention or feed-forward module."""
    return [module for name, module in half.named_children() if name.endswith("_proj")]


def base_of(part: Any) -> Any:
    """Return the layer that an adapter stands beside, or ``part`` itself if there is none."""
    return part.get_base_layer() if isinstance(part, LoraLayer) else part


def adapter_of(part: Any) -> tuple[Tensor, Tensor] | None:
    """Return A [rank, width] and scale · B [rows, rank] beside ``part``, float32; None if no adapter acts on it."""
    name = plain_adapter(part, at_rest=True) if isinstance(part, LoraLayer) else None
    if name is None:
        return None
    a, b = part.lora_A[name].weight.data, part.lora_B[name].weight.data
    return a.float().contiguous(), (b.float() * part.scaling[name]).contiguous()


def _added(layer: Any) -> list[nn.Parameter]:
    own = {id(part) for part in layer.get_base_layer().parameters()}
    return [part for part in layer.parameters() if id(part) not in own]


def _is_plain_lora(part: Any) -> bool:
    """True if no adapter acts on ``part``, or one that ``adapter_of`` describes whole."""
    acts = isinstance(part, LoraLayer) and not (
        part.disable_adapters or part.merged or not part.active_adapters
    )
    return not acts or plain_adapter(part, at_rest=True) is not None


def _check(fits: bool, why: str) -> None:
    if not fits:
        raise UnsupportedError(why)
