"""Tiny models of families that are unlike Llama in one way that matters to training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    AfmoeConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    OPTConfig,
    Phi3Config,
    PhimoeConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_dense_layers": 1}


def model_of(config: PreTrainedConfig, *, seed: int = 0) -> PreTrainedModel:
    """A model of ``config`` whose weights differ enough that a wrong token or position shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
        for part in model.parameters():
            nn.init.normal_(part.data, std=0.15) if part.ndim > 1 else part.data.add_(
                0.1 * torch.randn(part.shape)
            )
    return model


def short_convolutions() -> PreTrainedModel:
    """LFM2: one layer of two links neighbours by a convolution."""
    return model_of(Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]))


def functional_dropout(probability: float = 0.1) -> PreTrainedModel:
    """OPT: dropout without any module for it."""
    sizes = {"hidden_size": 32, "ffn_dim": 48, "word_embed_proj_dim": 32, "num_attention_heads": 4}
    return model_of(OPTConfig(vocab_size=128, num_hidden_layers=2, dropout=probability, **sizes))


def jittering_router() -> PreTrainedModel:
    """Phi MoE: its router draws, and returns several tensors though it is a linear layer."""
    return model_of(PhimoeConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2, input_jitter_noise=0.1))


def chunked_attention(chunk: int) -> PreTrainedModel:
    """Llama 4: layers that see ``chunk`` tokens at once, which no setting called a window says."""
    config = Llama4TextConfig(
        **SIZES, head_dim=8, num_local_experts=4, intermediate_size_mlp=32, attention_chunk_size=chunk
    )
    return model_of(config)


def long_rope(border: int = 16) -> PreTrainedModel:
    """Phi-3 with longrope: rows of more than ``border`` tokens have other frequencies."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 16.0}
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]}
    settings = rope | factors | {"original_max_position_embeddings": border}
    config = Phi3Config(**SIZES, original_max_position_embeddings=border, rope_parameters=settings)
    return model_of(config)


def dynamic_rope(border: int = 16) -> PreTrainedModel:
    """Llama with dynamic scaling: beyond ``border`` tokens the frequencies depend on the exact length."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    return model_of(LlamaConfig(**SIZES | {"max_position_embeddings": border}, rope_parameters=rope))


def router_bias() -> PreTrainedModel:
    """AFMoE: a bias that the architecture keeps fixed decides which expert is chosen."""
    return model_of(AfmoeConfig(**SIZES, **EXPERTS, head_dim=8, sliding_window=64))


def with_vision() -> PreTrainedModel:
    """Gemma 3 with its vision tower, of which a text reaches nothing."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"image_token_index": 125, "boi_token_index": 126, "eoi_token_index": 127}
    config = Gemma3Config(
        text_config=SIZES | {"head_dim": 8, "sliding_window": 64, "query_pre_attn_scalar": 8},
        vision_config=vision | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        **tokens,
    )
    return model_of(config)
