"""Tiny GGUF files, written by the gguf package from a tiny model, as llama.cpp's converter would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from transformers import PreTrainedModel

from tests.tiny import Architecture, tiny_model, tiny_tokenizer

_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def tiny_gguf(
    path: Path,
    architecture: Architecture = "llama",
    *,
    quantisation: GGMLQuantizationType = GGMLQuantizationType.F32,
    metadata: dict[str, Any] | None = None,
    rename: dict[str, str] | None = None,
    more: dict[str, np.ndarray[Any, Any]] | None = None,
    **overrides: Any,
) -> PreTrainedModel:
    """Write ``path`` and give the model it was made from.

    ``metadata`` replaces header entries (None leaves one out), ``rename`` tensor names, ``more`` are further
    tensors; ``overrides`` go to the model's config.
    """
    tokenizer = tiny_tokenizer("qwen3")
    model = tiny_model(architecture, vocab_size=len(tokenizer), **overrides)
    writer = gguf.GGUFWriter(path, architecture)
    entries = {**_sizes(model, architecture), **_vocabulary(), **(metadata or {})}
    for key, value in entries.items():
        _add(writer, key, value)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = _permuted(model, architecture, name, tensor.numpy())
        kind = quantisation if values.ndim > 1 else GGMLQuantizationType.F32
        their_name = _their_name(name)
        writer.add_tensor(
            (rename or {}).get(their_name, their_name), gguf.quantize(values, kind), raw_dtype=kind
        )
    for name, values in (more or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case None | "llama" | "qwen2" | "qwen3" if key == "general.architecture":
            pass  # the writer adds it
        case None:
            pass
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)


def _sizes(model: PreTrainedModel, architecture: str) -> dict[str, Any]:
    config = model.config
    facts = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_parameters["rope_theta"],
        "rope.dimension_count": 8,
        "attention.key_length": 8,
    }
    return {f"{architecture}.{key}": value for key, value in facts.items()}


def _vocabulary() -> dict[str, Any]:
    tokenizer = tiny_tokenizer("qwen3")
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": sorted(model["vocab"], key=model["vocab"].__getitem__),
        "tokenizer.ggml.token_type": [3 if index in special else 1 for index in range(len(tokenizer))],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": tokenizer.chat_template,
    }


def _their_name(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{suffix}"
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_PARTS[part]}.{suffix}"


def _permuted(
    model: PreTrainedModel, architecture: str, name: str, values: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """q and k as llama.cpp stores them for the llama architecture: the two halves of each head interleaved."""
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    part = name.split(".")[-2]
    if architecture != "llama" or part not in heads:
        return values
    shaped = values.reshape(heads[part], 2, -1, *values.shape[1:])
    return np.ascontiguousarray(shaped.swapaxes(1, 2)).reshape(values.shape)


def dequantised(model: PreTrainedModel, quantisation: GGMLQuantizationType) -> dict[str, torch.Tensor]:
    """The model's weights after a round trip through ``quantisation``, norms and biases untouched."""
    return {
        name: torch.from_numpy(
            gguf.dequantize(gguf.quantize(tensor.numpy(), quantisation), quantisation).reshape(tensor.shape)
        )
        if tensor.ndim > 1
        else tensor
        for name, tensor in model.state_dict().items()
    }
