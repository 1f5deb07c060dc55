"""Every way to adapt a model that the settings offer, small, for tests that all of them must pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.run.config import TuningConfig
from tests.tiny import Architecture

_SMALL = {"lora_r": 4, "lora_alpha": 8}


def tuning(**settings: Any) -> TuningConfig:
    """A LoRA of rank 4 and scale 2 with further ``settings``."""
    return TuningConfig(**_SMALL | settings)


VARIANTS: Mapping[str, TuningConfig] = {
    "plain": tuning(),
    "rsLoRA": tuning(use_rslora=True),
    "DoRA": tuning(use_dora=True),
    "patterns": tuning(rank_pattern={"q_proj": 2, "down_proj": 7}, alpha_pattern={"v_proj": 3}),
    "rsLoRA with patterns": tuning(use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}),
    "fewer layers": tuning(layers_to_transform=[1], exclude_modules=["up_proj"]),
    "PiSSA": tuning(init_lora_weights="pissa"),
    "PiSSA of rsLoRA with patterns": tuning(
        init_lora_weights="pissa_niter_4",
        use_rslora=True,
        rank_pattern={"q_proj": 2},
        alpha_pattern={"v_proj": 3},
    ),
    "OLoRA": tuning(init_lora_weights="olora"),
    "DoRA from PiSSA": tuning(init_lora_weights="pissa", use_dora=True),
    "embeddings and head": tuning(modules_to_save=["embed_tokens", "lm_head"]),
    "norms": tuning(modules_to_save=["norm", "input_layernorm"]),
    "tokens": tuning(trainable_token_indices=[3, 5, 17]),
}
"""Of a model like Llama."""

GPT2: Mapping[str, TuningConfig] = {
    "plain": tuning(),
    "rsLoRA": tuning(use_rslora=True),
    "DoRA": tuning(use_dora=True),
    "patterns": tuning(rank_pattern={"c_attn": 2}, alpha_pattern={"c_fc": 3}),
    "fewer layers": tuning(layers_to_transform=[1], exclude_modules=["c_fc"]),
    "PiSSA": tuning(init_lora_weights="pissa"),
    "OLoRA": tuning(init_lora_weights="olora"),
    "embeddings and head": tuning(modules_to_save=["wte"]),
    "tokens": tuning(trainable_token_indices=[3, 5, 17]),
}
"""Of a model like GPT-2, whose layers are Conv1D."""

UNTIED: Mapping[str, TuningConfig] = {
    "embeddings and head": tuning(modules_to_save=["embed_tokens", "lm_head"]),
    "head alone": tuning(modules_to_save=["lm_head"]),
    "tokens": tuning(trainable_token_indices=[3, 5, 17]),
    "adapters on both ends": tuning(lora_target_modules=["q_proj", "embed_tokens", "lm_head"]),
}
"""Of a model like Llama whose head has a matrix of its own."""

Case = tuple[Architecture, TuningConfig, dict[str, Any]]
CASES: Mapping[str, Case] = {
    **{f"llama {name}": ("llama", each, {}) for name, each in VARIANTS.items()},
    **{f"gpt2 {name}": ("gpt2", each, {}) for name, each in GPT2.items()},
    **{f"untied {name}": ("llama", each, {"tie_word_embeddings": False}) for name, each in UNTIED.items()},
}
"""Name → architecture, settings, and what differs in the configuration of the model."""
