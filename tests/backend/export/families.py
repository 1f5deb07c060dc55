"""Ten families of models, each built tiny with the settings that are its own: positions, windows, scales, experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from backend.core.model_files import write_config
from tests.tiny import Family, quiet_transformers, tiny_tokenizer

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}

FAMILIES: dict[str, tuple[Family, dict[str, Any]]] = {
    "llama": ("llama3", {"rope_parameters": _LLAMA3, "tie_word_embeddings": True}),
    "qwen2": ("qwen3", {"rope_parameters": _YARN, "head_dim": None}),
    "qwen3": ("qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "mistral": ("mistral", {"sliding_window": 32}),
    "gemma2": ("gemma", {"sliding_window": 32, "query_pre_attn_scalar": 8}),
    "gemma3_text": ("gemma", {"sliding_window": 32, "query_pre_attn_scalar": 8}),
    "phi3": (
        "chatml",
        {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 64, "head_dim": None},
    ),
    "gpt_neox": ("chatml", {"num_key_value_heads": None, "head_dim": None}),
    "mixtral": ("mistral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "granite": ("chatml", {"logits_scaling": 4.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5}),
}
"""model_type → tokenizer, settings; what GGUF can carry comes first."""
IN_GGUF = ("llama", "qwen2", "qwen3")


def family_config(name: str) -> PretrainedConfig:
    """The configuration of a tiny model of the family ``name``."""
    words, settings = FAMILIES[name]
    tokenizer = tiny_tokenizer(words)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    sizes = {key: value for key, value in (_SIZES | settings | ids).items() if value is not None}
    return AutoConfig.for_model(name, **sizes, vocab_size=len(tokenizer))


def family_folder(folder: Path, name: str) -> Path:
    """``folder`` with a tiny model of the family ``name`` and its tokenizer, weights large enough to matter."""
    tokenizer = tiny_tokenizer(FAMILIES[name][0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(family_config(name))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * (0.2 if parameter.ndim > 1 else 0.05))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    with quiet_transformers():
        model.save_pretrained(folder)
    write_config(model.config, folder, dtype="float32")  # as published models are: older readers know them
    tokenizer.save_pretrained(folder)
    return folder
