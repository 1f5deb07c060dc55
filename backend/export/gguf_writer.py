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
from backend.export.plain import PlainLora, matrix_name

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

_COARSER_THAN_Q8 = frozenset({"Q5_1", "Q5_0", "Q4_1", "Q4_0"})
_ROPE_SCALING = {
    "default": None,
    "llama3": None,  # not a key but a tensor, see _llama3_factors
    "linear": gguf.RopeScalingType.LINEAR,
    "yarn": gguf.RopeScalingType.YARN,
}
"""The supported rope_type values of transformers, and the scaling type that GGUF has for them."""
YARN_DEFAULTS = {
    "attention_factor": None,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1,
    "mscale_all_dim": 0,
    "truncate": True,
}
"""Yarn settings of transformers that llama.cpp does not read, with the value at which both compute the same."""
_ROTATED = ("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias")
"""The weights whose output is rotated by position."""


@dataclass(frozen=True)
class _PlannedTensor:
    """A tensor to be written under the GGUF name ``name``, and the kind that ``values`` are stored in."""

    name: str
    values: Tensor
    kind: Kind

    @property
    def byte_shape(self) -> tuple[int, ...]:
        """The shape of the stored tensor with its last dimension in bytes."""
        shape: tuple[int, ...] = quant_shape_to_byte_shape(tuple(self.values.shape), self.kind)
        return shape

    def stored(self) -> npt.NDArray[Any]:
        """Return the values converted to the kind they are stored in."""
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
    """Write the model with these Hugging Face ``weights`` to ``path`` under the display name ``name``.

    ``quantization`` is one of ``FILE_TYPES``. Raises ExportError: ``unsupported-architecture``,
    ``unsupported-positions``.
    """
    check_model(config)
    architecture = ARCHITECTURES[config.model_type]
    writer = GGUFWriter(None, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type(gguf.GGUFType.MODEL)
    head = "output.weight" if "lm_head.weight" in weights else "token_embd.weight"  # tied
    planned = [
        _PlannedTensor(tensor, values, _kind(values, quantization, is_head=tensor == head))
        for tensor, values in _model_tensors(config, weights)
    ]
    writer.add_name(name)
    total = sum(tensor.values.numel() for tensor in planned)
    writer.add_size_label(gguf.size_label(total, 0, 0, 0))  # zeros: no experts
    _add_settings(writer, config)
    writer.add_file_type(FILE_TYPES[quantization])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    vocabulary.write(writer)
    _write(path, writer, planned)


def write_lora_gguf(path: Path, config: PretrainedConfig, adapter: PlainLora) -> None:
    """Write an adapter in fp32 to ``path``, for llama.cpp to apply to the GGUF file of its base.

    Raises ExportError (``unsupported-adapter``, and those of ``check_model``).
    """
    check_model(config)
    architecture = ARCHITECTURES[config.model_type]
    writer = GGUFWriter(None, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(adapter.config["lora_alpha"]))
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    planned = []
    for weight, values in adapter.weights.items():
        layer, side = matrix_name(weight)
        adapted = f"{layer.removeprefix('base_model.model.')}.weight"
        name = names.get_name(adapted, try_suffixes=(".weight",))
        if name is None:
            raise ExportError(
                f"The adapter has {weight}, for which GGUF has no name.",
                remedy="Export it with `to=gguf`, which merges it.",
                code="unsupported-adapter",
            )
        # The update is B times A, so its rows, which llama.cpp orders differently, are the rows of B.
        # Of embeddings it looks up rows of A, one for each token.
        ordered = _permuted(config, adapted, values) if side == "B" else values
        turned = ordered.T.contiguous() if name == "token_embd.weight" and side == "A" else ordered
        planned.append(_PlannedTensor(f"{name}.lora_{side.lower()}", turned, Kind.F32))
    _write(path, writer, planned)


def _write(path: Path, writer: GGUFWriter, planned: list[_PlannedTensor]) -> None:
    """Write the keys that ``writer`` has, then the tensors; their sizes come before the first is converted."""
    for tensor in planned:
        size = math.prod(tensor.byte_shape)
        # uint8 tells the writer that the shape is in bytes
        writer.add_tensor_info(
            tensor.name, tensor.byte_shape, np.dtype(np.uint8), size, raw_dtype=tensor.kind
        )
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
    rope_type = rope.get("rope_type", "default")
    changed = sorted(key for key, usual in YARN_DEFAULTS.items() if rope.get(key) not in {usual, None})
    if rope_type not in _ROPE_SCALING or (rope_type == "yarn" and changed):
        details = f" with {', '.join(changed)}" if changed else ""
        raise _unsupported(
            f"GGUF export does not support positions scaled by {rope_type}{details}.",
            "unsupported-positions",
        )
    if set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        raise _unsupported("GGUF export does not support sliding-window attention.", "unsupported-positions")
    if config.hidden_act != "silu":
        raise _unsupported(
            f"GGUF export supports the activation silu; this model has {config.hidden_act}.",
            "unsupported-architecture",
        )
    if config.model_type == "qwen3" and config.attention_bias:  # llama.cpp's qwen3 adds no biases
        raise _unsupported(
            "GGUF export does not support qwen3 with attention_bias.", "unsupported-architecture"
        )


def _unsupported(message: str, code: str) -> ExportError:
    return ExportError(message, remedy="Export it with `to=merged` instead.", code=code)


def _add_settings(writer: GGUFWriter, config: PretrainedConfig) -> None:
    head_size = _head_size(config)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_positions(writer, config.rope_parameters)


def _add_positions(writer: GGUFWriter, rope: Mapping[str, Any]) -> None:
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    scaling = _ROPE_SCALING[rope.get("rope_type", "default")]
    if scaling is not None:
        writer.add_rope_scaling_type(scaling)
        writer.add_rope_scaling_factor(rope["factor"])
    if scaling == gguf.RopeScalingType.YARN:
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _head_size(config: PretrainedConfig) -> int:
    size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return size


# --- tensors ----------------------------------------------------------------------------------------------


def _model_tensors(config: PretrainedConfig, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield (GGUF name, values) of every tensor of a model."""
    if config.rope_parameters.get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_factors(config)
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    for name, values in weights.items():
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise _unsupported(
                f"GGUF has no name for the weight {name} of a {config.model_type} model.",
                "unsupported-architecture",
            )
        yield gguf_name, _permuted(config, name, values)


def _permuted(config: PretrainedConfig, name: str, values: Tensor) -> Tensor:
    """Return the weight with the Hugging Face ``name`` in llama.cpp's order: a Llama's q and k have other rows.

    llama.cpp rotates neighbouring pairs, transformers the two halves. Source: ``LlamaModel.permute`` of llama.cpp's
    converter.
    """
    if config.model_type != "llama" or not name.endswith(_ROTATED):
        return values
    heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.transpose(1, 2).reshape(values.shape)


def _kind(values: Tensor, quantization: str, *, is_head: bool) -> Kind:
    """Return how a tensor is stored: vectors (norms, biases) in fp32, matrices as in ``quantization``.

    The head is no coarser than Q8_0, since its errors go straight into every probability. Rows that do not divide
    into blocks are stored in F16.
    """
    if values.dim() == 1:
        return Kind.F32
    kind = Kind.Q8_0 if is_head and quantization in _COARSER_THAN_Q8 else Kind[quantization]
    block, _ = GGML_QUANT_SIZES[kind]
    return kind if values.shape[-1] % block == 0 else Kind.F16


def _llama3_factors(config: PretrainedConfig) -> Tensor:
    """Return the factors by which Llama 3.1 divides the rotary frequencies, ``[head size / 2]``.

    Computed here and not by ``llama3_factors`` of our import, which checks the file. Source: Llama 3.1's published
    scaling rule (``rope_type: llama3`` in transformers).
    """
    rope, size = config.rope_parameters, _head_size(config)
    frequency = 1.0 / (rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    rotations = (
        rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    )  # in the original context
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    smooth = ((rotations - low) / (high - low)).clamp(0, 1)
    factors: Tensor = 1 / ((1 - smooth) / factor + smooth)
    return factors
