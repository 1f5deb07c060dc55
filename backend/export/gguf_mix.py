"""Choose how each tensor of a GGUF file is stored in a precision that mixes several, as ``llama-quantize`` does.

Source: the rules of llama.cpp's ``src/llama-quant.cpp`` (October 2026): values and the end of the feed-forward block
keep more bits in some layers, the head keeps six, and rows that do not divide into blocks of 256 use blocks of 32.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from gguf import GGMLQuantizationType as Kind
from gguf import LlamaFileType
from gguf.constants import GGML_QUANT_SIZES

from backend.core.gguf.file import GgufFile, GgufTensor

MIXES = {
    "Q6_K": (LlamaFileType.MOSTLY_Q6_K, Kind.Q6_K),
    "Q5_K_M": (LlamaFileType.MOSTLY_Q5_K_M, Kind.Q5_K),
    "Q5_K_S": (LlamaFileType.MOSTLY_Q5_K_S, Kind.Q5_K),
    "Q4_K_M": (LlamaFileType.MOSTLY_Q4_K_M, Kind.Q4_K),
    "Q4_K_S": (LlamaFileType.MOSTLY_Q4_K_S, Kind.Q4_K),
    "Q3_K_L": (LlamaFileType.MOSTLY_Q3_K_L, Kind.Q3_K),
    "Q3_K_M": (LlamaFileType.MOSTLY_Q3_K_M, Kind.Q3_K),
    "Q3_K_S": (LlamaFileType.MOSTLY_Q3_K_S, Kind.Q3_K),
    "Q2_K": (LlamaFileType.MOSTLY_Q2_K, Kind.Q2_K),
    "IQ4_NL": (LlamaFileType.MOSTLY_IQ4_NL, Kind.IQ4_NL),
    "IQ4_XS": (LlamaFileType.MOSTLY_IQ4_XS, Kind.IQ4_XS),
}
"""The precisions that llama.cpp mixes: the type of the file, and the kind of most tensors. Finest first."""
PLAIN = {
    "Q8_0": (LlamaFileType.MOSTLY_Q8_0, Kind.Q8_0),
    "Q5_1": (LlamaFileType.MOSTLY_Q5_1, Kind.Q5_1),
    "Q5_0": (LlamaFileType.MOSTLY_Q5_0, Kind.Q5_0),
    "Q4_1": (LlamaFileType.MOSTLY_Q4_1, Kind.Q4_1),
    "Q4_0": (LlamaFileType.MOSTLY_Q4_0, Kind.Q4_0),
}
"""The precisions of one kind for all tensors but the head."""
WEIGHED = frozenset({*MIXES, *PLAIN}) - {"Q8_0"}
"""The precisions that an importance matrix makes a difference for."""

_FALLBACK = {
    Kind.Q2_K: Kind.Q4_0,
    Kind.Q3_K: Kind.Q4_0,
    Kind.IQ4_XS: Kind.IQ4_NL,
    Kind.Q4_K: Kind.Q5_0,
    Kind.Q5_K: Kind.Q5_1,
    Kind.Q6_K: Kind.Q8_0,
}
"""The kind in blocks of 32 for rows that do not divide into blocks of 256."""
_NEVER = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid|altup|laurel|per_layer_model_proj|ssm_conv1d"
    r"|shortconv\.conv\.weight|indexer\.[kq]_proj\.weight|time_mix_(first|[wva][012]|g[12]|decay_w[12]|lerp_fused)"
    r"|attn_rel_b\.weight|position_embd|token_types"
)
"""Parts of names of matrices that are never stored in fewer bits: small ones, and those that choose experts."""
_VALUES = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")


@dataclass(frozen=True)
class _Model:
    """What the rules ask of a model: its layers, experts, query heads for each key head, and matrices of values."""

    architecture: str
    layers: int
    experts: int
    shared_heads: int
    values: int
    tied: bool
    weighed: bool


def choose_kinds(file: GgufFile, precision: str, *, weighed: bool = False) -> dict[str, Kind]:
    """Return the kind of every tensor of the float32 ``file`` in ``precision``, one of ``MIXES`` or ``PLAIN``.

    ``weighed`` is whether an importance matrix is used, which changes a few choices.
    """
    model = _facts(file, weighed=weighed)
    order = sorted(file.tensors.values(), key=lambda tensor: (_layer(tensor.name), tensor.name))
    seen = {"values": 0, "down": 0}
    return {tensor.name: _kind(tensor, precision, model, seen) for tensor in order}


def _facts(file: GgufFile, *, weighed: bool) -> _Model:
    name = str(file.metadata["general.architecture"])

    def fact(key: str, usual: int) -> int:
        value: Any = file.metadata.get(f"{name}.{key}", usual)
        return int(max(value) if isinstance(value, list) else value)

    heads = fact("attention.head_count", 1)
    return _Model(
        architecture=name,
        layers=fact("block_count", 1),
        experts=fact("expert_count", 0),
        shared_heads=heads // max(1, fact("attention.head_count_kv", heads)),
        values=sum(tensor.endswith(_VALUES) for tensor in file.tensors),
        tied="output.weight" not in file.tensors,
        weighed=weighed,
    )


def _layer(name: str) -> int:
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _kind(tensor: GgufTensor, precision: str, model: _Model, seen: dict[str, int]) -> Kind:
    if len(tensor.shape) < 2 or not tensor.name.endswith("weight") or _NEVER.search(tensor.name):
        return tensor.kind
    wanted = {**MIXES, **PLAIN}[precision][1]
    is_head = tensor.name == "output.weight" or (model.tied and tensor.name in _EMBEDDINGS)
    chosen = (
        _head(wanted, tensor, precision, model) if is_head else _body(tensor, wanted, precision, model, seen)
    )
    return _fitting(chosen, tensor)


def _fitting(kind: Kind, tensor: GgufTensor) -> Kind:
    """Return ``kind``, or the nearest one whose blocks the rows of ``tensor`` divide into."""
    for each in (kind, _FALLBACK.get(kind, Kind.F16)):
        if tensor.shape[-1] % GGML_QUANT_SIZES[each][0] == 0:
            return each
    return Kind.F16


def _head(kind: Kind, tensor: GgufTensor, precision: str, model: _Model) -> Kind:
    """Return the kind of the head, whose errors go straight into every probability."""
    fits = tensor.shape[-1] % GGML_QUANT_SIZES[kind][0] == 0
    plain = precision in PLAIN and not model.weighed  # as our own writer does, which has no K-quants
    return (
        Kind.Q8_0 if plain or kind == Kind.Q8_0 or not fits or model.architecture == "falcon" else Kind.Q6_K
    )


def _body(tensor: GgufTensor, kind: Kind, precision: str, model: _Model, seen: dict[str, int]) -> Kind:
    name = tensor.name
    if name.endswith(_VALUES):
        number = seen["values"]
        seen["values"] += 1
        return _of_values(kind, precision, number, model)
    if name.endswith("attn_k.weight"):
        return Kind.Q8_0 if model.experts == 8 else kind
    if "ffn_down" in name:
        layer = _layer(name) if model.experts > 1 else seen["down"]
        seen["down"] += 1
        return _of_down(kind, precision, layer, model)
    if name.endswith("attn_output.weight"):
        return _of_output(kind, precision, model)
    return kind


def _more_bits(layer: int, layers: int) -> bool:
    """Return whether a layer keeps more bits: the first eighth, the last, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _of_values(kind: Kind, precision: str, number: int, model: _Model) -> Kind:
    """Return the kind of the ``number``-th matrix of values: small, and more sensitive than the others."""
    shared = model.shared_heads >= 4
    chosen = {
        "Q2_K": Kind.Q4_K if shared else Kind.Q3_K,
        "Q3_K_M": Kind.Q5_K if number < 2 else Kind.Q4_K,
        "Q3_K_L": Kind.Q5_K,
        "Q4_K_S": Kind.Q5_K if number < 4 else kind,
        "IQ4_NL": Kind.Q5_K if shared else kind,
        "IQ4_XS": Kind.Q5_K if shared else kind,
    }.get(precision, kind)
    if precision in {"Q4_K_M", "Q5_K_M"} and _more_bits(number, model.values):
        chosen = Kind.Q6_K
    if model.layers == 80 and shared and chosen in {Kind.Q3_K, Kind.Q4_K}:  # a model of 70 billion
        chosen = Kind.Q5_K
    return Kind.Q8_0 if model.experts == 8 else chosen


def _of_down(kind: Kind, precision: str, layer: int, model: _Model) -> Kind:
    """Return the kind of the matrix at the end of a feed-forward block."""
    early, more = layer < model.layers // 8, _more_bits(layer, model.layers)
    falcon = model.architecture == "falcon"
    if precision in {"Q4_K_M", "Q3_K_M"} and falcon:
        finest, fine = (Kind.Q6_K, Kind.Q5_K) if precision == "Q4_K_M" else (Kind.Q5_K, Kind.Q4_K)
        return finest if layer < model.layers // 16 else fine if more else kind
    return {
        "Q2_K": Kind.Q3_K,
        "Q3_K_M": Kind.Q5_K if layer < model.layers // 16 else Kind.Q4_K,
        "Q3_K_L": Kind.Q4_K if falcon else Kind.Q5_K,
        "Q4_K_M": Kind.Q6_K if more else kind,
        "Q5_K_M": Kind.Q6_K if more else kind,
        "Q4_K_S": Kind.Q5_K if early and not falcon else kind,
        "IQ4_NL": Kind.Q5_K if early and not model.weighed else kind,
        "IQ4_XS": Kind.Q5_K if early and not model.weighed else kind,
        "Q4_0": Kind.Q4_1 if early and model.weighed else kind,
        "Q5_0": Kind.Q5_1 if early and model.weighed else kind,
    }.get(precision, kind)


def _of_output(kind: Kind, precision: str, model: _Model) -> Kind:
    """Return the kind of the matrix at the end of attention."""
    if model.architecture == "falcon":
        return Kind.Q4_K if precision == "Q3_K_L" else kind
    if model.experts == 8:
        coarse = {"Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS"}
        return Kind.Q5_K if precision in coarse else kind
    return {"Q2_K": Kind.Q3_K, "Q3_K_M": Kind.Q4_K, "Q3_K_L": Kind.Q5_K}.get(precision, kind)
