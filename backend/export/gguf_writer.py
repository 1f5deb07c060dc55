"""Write a merged model, or an adapter alone, as one GGUF file.

Names, layouts and keys are those of llama.cpp's own converter. Tensors are converted one at a time while they are
written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter, LlamaFileType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import quant_shape_to_byte_shape, quantize
from torch import Tensor
from transformers import PretrainedConfig

from backend.errors import ExportError
from backend.export.gguf_vocab import Vocabulary

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
"""GGUF architectures by the model_type of config.json."""

FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q5_1": LlamaFileType.MOSTLY_Q5_1,
    "Q5_0": LlamaFileType.MOSTLY_Q5_0,
    "Q4_1": LlamaFileType.MOSTLY_Q4_1,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
}
"""The precisions that the gguf package can write by itself, finest first."""

_COARSE = frozenset({"Q5_1", "Q5_0", "Q4_1", "Q4_0"})
_POSITIONS = ("default", "llama3", "linear", "yarn")
YARN = {
    "attention_factor": None,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1,
    "mscale_all_dim": 0,
    "truncate": True,
}
"""Yarn settings of transformers that llama.cpp does not read, with the value at which both compute the same."""
_ROTARY = ("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias")


@dataclass(frozen=True)
class _Planned:
    """A tensor to be written: ``values`` in fp32, outermost dimension first, and the kind it is stored in."""

    name: str
    values: Tensor
    kind: Kind

    @property
    def stored_bytes(self) -> int:
        return (
            math.prod(quant_shape_to_byte_shape(tuple(self.values.shape), self.kind))
            if self._packed
            else (self.values.numel() * (4 if self.kind == Kind.F32 else 2))
        )

    @property
    def _packed(self) -> bool:
        return self.kind not in {Kind.F32, Kind.F16}

    def stored(self) -> npt.NDArray[Any]:
        """Return the values converted to their kind."""
        array: npt.NDArray[Any] = quantize(self.values.float().numpy(), self.kind)
        return array


def write_gguf(
    path: Path,
    config: PretrainedConfig,
    weights: Mapping[str, Tensor],
    vocabulary: Vocabulary,
    *,
    quantization: str,
    name: str,
) -> None:
    """Write the model with these Hugging Face ``weights`` to ``path``, in one of ``FILE_TYPES``.

    Raises ExportError: ``unsupported-architecture``, ``unsupported-positions``.
    """
    check_model(config)
    architecture = ARCHITECTURES[config.model_type]
    writer = GGUFWriter(None, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type(gguf.GGUFType.MODEL)
    tied = "lm_head.weight" not in weights
    planned = [
        _Planned(part, values, _kind(part, values, quantization, tied=tied))
        for part, values in _model_tensors(config, weights)
    ]
    writer.add_name(name)
    writer.add_size_label(gguf.size_label(sum(part.values.numel() for part in planned), 0, 0, 0))
    _add_settings(writer, config)
    writer.add_file_type(FILE_TYPES[quantization])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    vocabulary.write(writer)
    _write(path, writer, planned)


def write_lora_gguf(
    path: Path, config: PretrainedConfig, adapter: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Write a LoRA adapter in fp32 to ``path``, for llama.cpp to apply to the GGUF file of its base.

    ``adapter`` is adapter_config.json, ``weights`` its safetensors. Raises ExportError (``unsupported-adapter``).
    """
    odd = [
        key
        for key in ("use_dora", "alpha_pattern", "rank_pattern", "lora_bias", "modules_to_save")
        if adapter.get(key)
    ]
    if adapter.get("peft_type") != "LORA" or odd:
        raise ExportError(
            f"llama.cpp cannot read this adapter ({', '.join(odd) or adapter.get('peft_type')}).",
            remedy="Export it with `to=gguf`, which merges it.",
            code="unsupported-adapter",
        )
    check_model(config)
    architecture = ARCHITECTURES[config.model_type]
    writer = GGUFWriter(None, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    rank = adapter["r"]
    alpha = adapter["lora_alpha"] * (math.sqrt(rank) if adapter.get("use_rslora") else 1)
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))  # llama.cpp scales by alpha / rank
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    planned = []
    for key, values in weights.items():
        module, _, side = key.removeprefix("base_model.model.").partition(".lora_")
        part = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if part is None or side not in {"A.weight", "B.weight"}:
            raise ExportError(
                f"The adapter has {key}, for which GGUF has no name.",
                remedy="Export it with `to=gguf`, which merges it.",
                code="unsupported-adapter",
            )
        turned = _permuted(config, f"{module}.weight", values) if side == "B.weight" else values
        planned.append(_Planned(f"{part}.lora_{side[0].lower()}", turned.float(), Kind.F32))
    _write(path, writer, planned)


def _write(path: Path, writer: GGUFWriter, planned: list[_Planned]) -> None:
    for tensor in planned:
        kind = None if tensor.kind in {Kind.F32, Kind.F16} else tensor.kind
        shape = tuple(tensor.values.shape)
        stored_shape = quant_shape_to_byte_shape(shape, tensor.kind) if kind else shape
        dtype = np.dtype(np.uint8 if kind else np.float32 if tensor.kind == Kind.F32 else np.float16)
        writer.add_tensor_info(tensor.name, stored_shape, dtype, tensor.stored_bytes, raw_dtype=kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in planned:
        writer.write_tensor_data(tensor.stored())
    writer.close()


# --- settings ---------------------------------------------------------------------------------------------


def check_model(config: PretrainedConfig) -> None:
    """Raise ExportError for a model that llama.cpp does not know or would compute differently.

    Its code is ``unsupported-architecture`` or ``unsupported-positions``.
    """
    if config.model_type not in ARCHITECTURES:
        raise _unsupported(
            f"GGUF export supports {', '.join(ARCHITECTURES)}; this model is {config.model_type}.",
            "unsupported-architecture",
        )
    rope = config.rope_parameters
    rule = rope.get("rope_type", "default")
    own = sorted(name for name, usual in YARN.items() if rope.get(name, usual) not in {usual, None})
    if rule not in _POSITIONS or (rule == "yarn" and own):
        raise _unsupported(
            f"GGUF export does not support positions scaled by {rule}{' with ' * bool(own)}{', '.join(own)}.",
            "unsupported-positions",
        )
    if set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        raise _unsupported("GGUF export does not support sliding-window attention.", "unsupported-positions")
    if config.hidden_act != "silu":
        raise _unsupported(
            f"GGUF export supports the activation silu; this model has {config.hidden_act}.",
            "unsupported-architecture",
        )
    if config.model_type == "qwen3" and config.attention_bias:
        raise _unsupported(
            "GGUF export does not support qwen3 with attention_bias.", "unsupported-architecture"
        )


def _unsupported(message: str, code: str) -> ExportError:
    return ExportError(message, remedy="Export it with `to=merged` instead.", code=code)


def _add_settings(writer: GGUFWriter, config: PretrainedConfig) -> None:
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_positions(writer, config.rope_parameters)


def _add_positions(writer: GGUFWriter, rope: Mapping[str, Any]) -> None:
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    match rope.get("rope_type", "default"):
        case "default" | "llama3":  # llama3 is a tensor of its own, see _rope_factors
            return
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        case "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(rope["factor"])
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


# --- tensors ----------------------------------------------------------------------------------------------


def _model_tensors(config: PretrainedConfig, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield (GGUF name, values) of every tensor of a model."""
    if config.rope_parameters.get("rope_type") == "llama3":
        yield "rope_freqs.weight", _rope_factors(config)
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    for name, values in weights.items():
        part = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if part is None:
            raise ExportError(
                f"GGUF has no name for the weight {name} of a {config.model_type} model.",
                remedy="Export it with `to=merged` instead.",
                code="unsupported-architecture",
            )
        yield part, _permuted(config, name, values)


def _permuted(config: PretrainedConfig, name: str, values: Tensor) -> Tensor:
    """Return a weight as llama.cpp orders it: rows of a Llama's q and k permuted, others unchanged.

    llama.cpp rotates neighbouring pairs, transformers the two halves. Source: ``LlamaModel.permute`` of llama.cpp's
    converter.
    """
    if config.model_type != "llama" or not name.endswith(_ROTARY):
        return values
    heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.transpose(1, 2).reshape(values.shape)


def _kind(name: str, values: Tensor, quantization: str, *, tied: bool) -> Kind:
    """Return how a tensor is stored: vectors and norms in fp32, the head no coarser than Q8_0, others as asked.

    Rows that do not divide into blocks are stored in F16.
    """
    if values.dim() == 1 or name.endswith("_norm.weight"):
        return Kind.F32
    head = name == ("token_embd.weight" if tied else "output.weight")
    kind = Kind.Q8_0 if head and quantization in _COARSE else Kind[quantization]
    block, _ = GGML_QUANT_SIZES[kind]
    return kind if values.shape[-1] % block == 0 else Kind.F16


def _rope_factors(config: PretrainedConfig) -> Tensor:
    """Return the factors by which Llama 3.1 divides the rotary frequencies, ``[head size / 2]``.

    Source: Llama 3.1's published scaling rule (``rope_type: llama3`` in transformers).
    """
    rope = config.rope_parameters
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    frequency = 1.0 / (rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    turns = (
        rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    )  # rotations in the original context
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    factors: Tensor = 1 / ((1 - smooth) / factor + smooth)
    return factors
