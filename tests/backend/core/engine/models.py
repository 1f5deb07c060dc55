"""Tiny models of every family that the engine computes, and of some that it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from backend.utils.warning_utils import unwarned
from tests.tiny import tiny_model

SIZES = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128},
}  # fmt: skip
KINDS = (
    "llama", "qwen2", "qwen3", "mistral", "smollm3", "gemma", "untied", "biased", "odd widths", *ROPES,
)  # fmt: skip


def model_of(kind: str) -> PreTrainedModel:
    """A model of ``kind`` whose logits depend strongly on every token."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = _made(kind)
        for part in model.parameters():
            part.data += torch.randn_like(part) * (0.2 if part.dim() > 1 else 0.05)
    return model.eval()


def _made(kind: str) -> PreTrainedModel:
    return _MADE[kind]() if kind in _MADE else tiny_model("llama", rope_parameters=ROPES[kind])


_MADE: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: tiny_model("llama"),
    "qwen2": lambda: tiny_model("qwen2"),
    "qwen3": lambda: tiny_model("qwen3"),
    "gpt2": lambda: tiny_model("gpt2"),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None, head_dim=16)),
    "window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=16)),
    "smollm3": lambda: SmolLM3ForCausalLM(SmolLM3Config(**SIZES | {"num_hidden_layers": 4})),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=8)),
    "untied": lambda: tiny_model("llama", tie_word_embeddings=False),
    "biased": lambda: tiny_model("llama", attention_bias=True),
    "odd widths": lambda: tiny_model(
        "llama", hidden_size=36, intermediate_size=70, head_dim=18, vocab_size=509
    ),
    "dynamic": lambda: tiny_model(
        "llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    ),
    "gelu": lambda: tiny_model("llama", hidden_act="gelu"),
}


def adapted(kind: str, *, rank: int = 5, dropout: float = 0.0) -> PeftModel:
    """A model of ``kind`` with LoRA on some of its matrices, not merged, whose logits depend on it."""
    targets = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    config = LoraConfig(
        r=rank, lora_alpha=3, target_modules=targets, lora_dropout=dropout, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]), unwarned():
        torch.manual_seed(2)
        model = get_peft_model(model_of(kind), config)
        for part in lora_parameters(model):
            part.data = torch.randn_like(part) * 0.3
    return model.eval()


def lora_layers(model: PeftModel) -> list[LoraLayer]:
    """The layers that the adapter stands beside."""
    return [part for part in model.modules() if isinstance(part, LoraLayer)]


def lora_parameters(model: PeftModel) -> list[torch.nn.Parameter]:
    """The matrices of the adapter."""
    return [part for name, part in model.named_parameters() if "lora_" in name]
