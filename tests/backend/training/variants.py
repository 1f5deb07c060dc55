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
}
"""Of a model like GPT-2, whose layers are Conv1D."""

Case = tuple[Architecture, TuningConfig, dict[str, Any]]
CASES: Mapping[str, Case] = {
    **{f"llama {name}": ("llama", each, {}) for name, each in VARIANTS.items()},
    **{f"gpt2 {name}": ("gpt2", each, {}) for name, each in GPT2.items()},
}
"""Name → architecture, settings, and what differs in the configuration of the model."""
