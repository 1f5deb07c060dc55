"""What the settings in an adapter_config.json mean to the programs that read it, free of torch.

All names are PEFT's, which are also those of ``TuningConfig``. PEFT gives each layer a rank and a scale of its own
(rsLoRA, rank and alpha patterns). Other programs do not: vLLM has one scale for all layers, llama.cpp divides
``lora_alpha`` by the rank of each and knows no rsLoRA. What both apply is the *plain form*, without such settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

ADAPTER_CONFIG = "adapter_config.json"

PLAIN: Mapping[str, Any] = MappingProxyType(
    {
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "layers_to_transform": None,
        "layers_pattern": None,
        "exclude_modules": None,
        "init_lora_weights": True,
        "loftq_config": {},
        "eva_config": None,
        "ensure_weight_tying": False,
    }
)
"""Settings whose meaning the weights of an adapter can hold instead, and the values that they then have."""

MERGED_ONLY = ("use_dora", "modules_to_save", "trainable_token_indices", "lora_bias")
"""Settings that train more than matrices beside frozen weights: only a merged model has what they did."""

_CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Values of ``init_lora_weights`` that change the base too; an adapter saved converted names none of them."""

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes as --max-lora-rank; 16 is its default."""


def merged_only(settings: Mapping[str, Any]) -> list[str]:
    """Return the names of ``MERGED_ONLY`` that ``settings`` use; with any, the result is exported merged only."""
    return [name for name in MERGED_ONLY if settings.get(name)]


def base_changed(settings: Mapping[str, Any]) -> bool:
    """Return whether an adapter with these settings in its file belongs on a base that its start has changed."""
    return str(settings.get("init_lora_weights")).startswith(_CHANGES_BASE)


def settings_to_fold(settings: Mapping[str, Any]) -> list[str]:
    """Return the names of ``PLAIN`` that an adapter has other values of; without any it is plain already.

    The ranks of experts are patterns as well, which PEFT makes itself; with the scale of all other layers they stay.
    """
    found = [name for name, plain in PLAIN.items() if settings.get(name, plain) != plain]
    kept = (
        {"rank_pattern", "alpha_pattern"}
        if settings.get("target_parameters") and _one_scale(settings)
        else {}
    )
    return [name for name in found if name not in kept]


def _one_scale(settings: Mapping[str, Any]) -> bool:
    ranks, alphas = settings["rank_pattern"], settings["alpha_pattern"]
    scale = settings["lora_alpha"] / settings["r"]
    same = ranks.keys() == alphas.keys() and all(alphas[name] / ranks[name] == scale for name in ranks)
    return same and not settings.get("use_rslora")


def vllm_rank(rank: int) -> int | None:
    """Return the least --max-lora-rank that vLLM takes for an adapter of ``rank``; None if there is none."""
    return next((each for each in VLLM_RANKS if each >= rank), None)
