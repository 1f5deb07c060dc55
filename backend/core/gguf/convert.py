"""Convert a GGUF file into a Hugging Face folder: config, fp32 safetensors, tokenizer, chat template.

The gguf package dequantises the weights block by block; each block is written straight to its place in the
safetensors file, so that little memory is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.quants import dequantize
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from backend.core.gguf.file import Bytes, GgufFile, GgufTensor, read_gguf
from backend.core.gguf.tokenizer import special_token, tokenizer_files
from backend.errors import ModelError
from backend.utils.file_utils import staged_folder, sweep_temporaries
from backend.utils.lock_utils import hold_lock

_CHUNK_VALUES = 4_000_000
# exceptions that wrong types or sizes in a header cause, here, in gguf or in transformers
_NONSENSE = (
    *(LookupError, TypeError, ValueError, AttributeError, ArithmeticError, NotImplementedError),
    StrictDataclassError,
)

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


ROPE_FREQS = "rope_freqs.weight"
"""A tensor that holds the rotary scaling of Llama 3.1 and is no weight of the model."""
_LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""The rotary scaling of all published Llama 3 models; only the factor differs."""
_KEYS = frozenset(
    {
        *("context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size"),
        *(
            "attention.head_count",
            "attention.head_count_kv",
            "attention.key_length",
            "attention.value_length",
        ),
        *("attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base", "rope.scaling.type"),
        *("rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned"),
        *("expert_count", "expert_used_count"),
    }
)
"""Metadata keys, after the architecture's name, that are read, checked, or without effect (``finetuned``)."""


@dataclass(frozen=True)
class _Architecture:
    """One GGUF architecture: its transformers class, and True if llama.cpp's converter permuted q and k."""

    model_class: str
    permuted: bool


_ARCHITECTURES = {
    "llama": _Architecture("LlamaForCausalLM", permuted=True),
    "qwen2": _Architecture("Qwen2ForCausalLM", permuted=False),
    "qwen3": _Architecture("Qwen3ForCausalLM", permuted=False),
}


def convert_gguf(gguf_path: Path, folder: Path) -> None:
    """Convert the GGUF file into ``folder`` in Hugging Face layout; do nothing if ``folder`` exists.

    The folder appears whole, by a rename; of several processes one converts and the others wait. Weights are fp32,
    equal to those that transformers reads. Raises ModelError: ``damaged-gguf``,
    ``unsupported-gguf``, ``unsupported-tokenizer``, ``cache-not-writable``.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(folder.with_name(f".{folder.name}.lock"), wait_seconds=math.inf):
            if not folder.is_dir():
                unpack_gguf(read_gguf(gguf_path), folder)
    except OSError as error:
        raise ModelError(
            f"{gguf_path} cannot be converted into {folder}: {error}.",
            code="cache-not-writable",
            remedy="Make room there, or point TUNESMITH_CACHE at a folder you may write.",
        ) from error


def unpack_gguf(file: GgufFile, folder: Path) -> None:
    """Write an opened GGUF file as ``folder``, which must not exist, in Hugging Face layout.

    Raises ModelError as ``convert_gguf``, and OSError.
    """
    try:
        config = gguf_config(file)
        tokenizer = tokenizer_files(file.metadata)
        tensors = {
            _hf_name(file, name): tensor for name, tensor in file.tensors.items() if name != ROPE_FREQS
        }
        _check_shapes(file, config, tensors)
        for tensor in {tensor.kind: tensor for tensor in tensors.values()}.values():
            dequantize(tensor.rows[:1], tensor.kind)
    except _NONSENSE as error:
        raise _unsupported(file, f"{type(error).__name__} in what its header says, {error}") from error
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    generation = {key: config[key] for key in ids if key in config}
    contents = {**tokenizer, "config.json": config, "generation_config.json": generation}
    sweep_temporaries(folder.parent)
    with staged_folder(folder) as staging:
        for name, content in contents.items():
            _write_text(staging / name, content)
        _write_weights(tensors, config, staging / "model.safetensors")


def _write_text(path: Path, content: Any) -> None:
    if content:
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        path.write_text(text, encoding="utf-8")


# --- config -----------------------------------------------------------------------------------------------


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """Return the config.json of a GGUF file. Raises ModelError for what this reader does not support.

    Wrong types in a header raise one of ``_NONSENSE``.
    """
    name = str(file.metadata.get("general.architecture"))
    if name not in _ARCHITECTURES:
        raise _unsupported(file, f"its architecture is {name}; ours are {', '.join(_ARCHITECTURES)}")
    facts = {key.removeprefix(f"{name}."): value for key, value in file.metadata.items()}
    if unknown := unknown_keys(file):
        raise _unsupported(file, f"it says {unknown[0]}, which this reader does not know")
    sizes = _sizes(file, facts)
    if facts.get("expert_count"):
        raise _unsupported(file, "it has experts, which this reader does not know")
    for key, wanted in (
        ("attention.value_length", sizes["head_dim"]),
        ("rope.dimension_count", sizes["head_dim"]),
        ("vocab_size", sizes["vocab_size"]),
    ):
        if facts.get(key, wanted) != wanted:
            raise _unsupported(file, f"its {key} is {facts[key]}, and {wanted} is what this reader knows")
    ids = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    tokens = {key: special_token(file.metadata, role) for key, role in ids.items()}
    return {
        "architectures": [_ARCHITECTURES[name].model_class],
        "model_type": name,
        **sizes,
        "rope_parameters": _positions(file, facts, sizes),
        **{key: index for key, index in tokens.items() if index is not None},
        "dtype": "float32",
    }


def unknown_keys(file: GgufFile) -> list[str]:
    """Return the architecture's keys in the file that this reader does not know; llama.cpp may use them."""
    prefix = f"{file.metadata.get('general.architecture')}."
    own = (key for key in file.metadata if key.startswith(prefix))
    return sorted(key for key in own if key.removeprefix(prefix) not in _KEYS)


def _positions(file: GgufFile, facts: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``rope_parameters``. Like llama.cpp, take a factor without a scaling type as linear."""
    rope = {"rope_type": "default", "rope_theta": facts.get("rope.freq_base", 10_000.0)}
    rule = facts.get("rope.scaling.type", "linear" if "rope.scaling.factor" in facts else "none")
    if rule in {"linear", "yarn"}:
        rope |= {"rope_type": rule, "factor": facts["rope.scaling.factor"]}
        original = facts.get("rope.scaling.original_context_length", facts["context_length"])
        rope |= {"original_max_position_embeddings": original} if rule == "yarn" else {}
    elif rule != "none":
        raise _unsupported(file, f"its positions are scaled by {rule}, which this reader does not know")
    if ROPE_FREQS not in file.tensors:
        return rope
    stored = torch.from_numpy(file.tensors[ROPE_FREQS].rows.view(np.float32).ravel().copy())
    scaled = rope | _LLAMA3 | {"factor": round(float(stored.max()))}
    known = llama3_factors(AutoConfig.for_model("llama", **{**sizes, "rope_parameters": scaled}))
    if rule != "none" or known.shape != stored.shape or not torch.allclose(known, stored, rtol=1e-4):
        raise _unsupported(file, f"its {ROPE_FREQS} holds no rule of positions that this reader knows")
    return scaled


def llama3_factors(config: PretrainedConfig) -> Tensor:
    """Return the numbers by which Llama 3.1's rotary scaling divides each frequency, [head size / 2].

    Source: transformers' own rule ``llama3``, beside its unscaled frequencies.
    """
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    size = 2 * len(scaled)
    steps = torch.arange(0, size, 2, dtype=torch.float32) / size
    factors: Tensor = 1.0 / config.rope_parameters["rope_theta"] ** steps / scaled
    return factors


def _sizes(file: GgufFile, facts: dict[str, Any]) -> dict[str, Any]:
    heads = facts["attention.head_count"]
    return {
        "hidden_size": facts["embedding_length"],
        "intermediate_size": facts["feed_forward_length"],
        "num_hidden_layers": facts["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts.get("attention.head_count_kv", heads),
        "head_dim": facts.get("attention.key_length", facts["embedding_length"] // heads),
        "hidden_act": "silu",
        "max_position_embeddings": facts["context_length"],
        "rms_norm_eps": facts["attention.layer_norm_rms_epsilon"],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "vocab_size": len(file.metadata["tokenizer.ggml.tokens"]),
        **({"attention_bias": True} if "blk.0.attn_output.bias" in file.tensors else {}),
        **({"mlp_bias": True} if "blk.0.ffn_down.bias" in file.tensors else {}),
    }


def _unsupported(file: GgufFile, why: str) -> ModelError:
    return ModelError(
        f"{file.path} cannot be imported: {why}.",
        code="unsupported-gguf",
        remedy="Give the model's Hugging Face folder or id instead.",
    )


# --- weights ----------------------------------------------------------------------------------------------


def _check_shapes(file: GgufFile, config: dict[str, Any], tensors: dict[str, GgufTensor]) -> None:
    """Raise ModelError unless the tensors are exactly those of transformers' class for this config."""
    if config["num_hidden_layers"] > len(tensors):
        raise _unsupported(file, f"it announces {config['num_hidden_layers']} layers and holds fewer tensors")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if config["tie_word_embeddings"]:
        del wanted["lm_head.weight"]
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != wanted:
        odd = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise _unsupported(file, f"its tensors do not fit its header, {odd[0]} first")


def _write_weights(tensors: dict[str, GgufTensor], config: dict[str, Any], target: Path) -> None:
    """Write the safetensors file: eight bytes of header length, a JSON header, then the tensors back to back.

    Source: the safetensors format description (huggingface/safetensors README).
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + 4 * math.prod(tensor.shape)
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            rows = unpermuted(tensor, config)
            step = max(1, _CHUNK_VALUES // tensor.shape[-1])
            for start in range(0, len(rows), step):
                values = dequantize(rows[start : start + step], tensor.kind)
                stream.write(np.ascontiguousarray(values, dtype="<f4").data)


def _hf_name(file: GgufFile, name: str) -> str:
    prefix, _, rest = name.partition(".")
    layer, _, part = rest.partition(".")
    part, _, suffix = part.partition(".")
    if name in _TOP:
        return _TOP[name]
    if prefix != "blk" or part not in _IN_LAYER or suffix not in {"weight", "bias"}:
        raise _unsupported(file, f"it holds a tensor {name}, which this reader does not know")
    return f"model.layers.{layer}.{_IN_LAYER[part]}.{suffix}"


def unpermuted(tensor: GgufTensor, config: Mapping[str, Any]) -> Bytes:
    """Return the rows of q and k in Hugging Face order; llama.cpp interleaves the two halves of each head.

    Source: ``LlamaModel.permute`` in llama.cpp's convert_hf_to_gguf.py; this is its inverse, on stored rows.
    """
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
    part = tensor.name.split(".")[2:3]
    rows = tensor.rows if len(tensor.shape) > 1 else tensor.rows.reshape(tensor.shape[0], -1)  # a bias
    if not _ARCHITECTURES[config["model_type"]].permuted or not part or part[0] not in heads:
        return tensor.rows
    shaped = rows.reshape(config[heads[part[0]]], -1, 2, rows.shape[-1])
    return np.ascontiguousarray(shaped.swapaxes(1, 2)).reshape(tensor.rows.shape)
