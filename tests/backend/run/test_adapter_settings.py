"""What settings of an adapter mean to other programs: backend/run/adapter_settings.py."""

from __future__ import annotations

from typing import Any

import pytest
from peft import LoraConfig

from backend.run.adapter_settings import (
    MERGED_ONLY,
    PLAIN,
    base_changed,
    merged_only,
    settings_to_fold,
    vllm_rank,
)

ADAPTER = {"r": 4, "lora_alpha": 32}
EXPERTS = ADAPTER | {"target_parameters": ["gate_up_proj"]}


def test_the_settings_are_pefts_and_plain_is_what_it_takes_without_a_word() -> None:
    usual = LoraConfig().to_dict()
    assert {name: usual[name] for name in PLAIN} == PLAIN
    assert [usual[name] for name in MERGED_ONLY if usual[name]] == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, []),
        ({"use_dora": False, "modules_to_save": None, "trainable_token_indices": []}, []),
        ({"use_dora": True, "use_rslora": True}, ["use_dora"]),
        ({"modules_to_save": ["lm_head"], "lora_bias": True}, ["modules_to_save", "lora_bias"]),
    ],
)  # fmt: skip
def test_what_is_exported_merged_only(settings: dict[str, Any], named: list[str]) -> None:
    assert merged_only(settings) == named


@pytest.mark.parametrize(
    ("start", "changed"),
    [(True, False), (None, False), ("gaussian", False), ("eva", False), ("pissa", True), ("pissa_niter_16", True),
     ("olora", True)],
)  # fmt: skip
def test_a_start_from_the_bases_own_directions_changes_the_base(start: object, changed: bool) -> None:
    assert base_changed({"init_lora_weights": start}) is changed


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (ADAPTER, []),
        (ADAPTER | PLAIN, []),
        (ADAPTER | {"use_rslora": True}, ["use_rslora"]),
        (ADAPTER | {"rank_pattern": {"q": 2}, "alpha_pattern": {}}, ["rank_pattern"]),
        (ADAPTER | {"layers_to_transform": [0]}, ["layers_to_transform"]),
        (ADAPTER | {"init_lora_weights": False}, ["init_lora_weights"]),
        (ADAPTER | {"rank_pattern": {"q": 8}, "alpha_pattern": {"q": 64}}, ["rank_pattern", "alpha_pattern"]),
        (EXPERTS | {"rank_pattern": {"q": 8}, "alpha_pattern": {"q": 64}}, []),
        (EXPERTS | {"rank_pattern": {"q": 8}, "alpha_pattern": {"q": 32}}, ["rank_pattern", "alpha_pattern"]),
        (EXPERTS | {"rank_pattern": {"q": 8}, "alpha_pattern": {}}, ["rank_pattern"]),
        (
            EXPERTS | {"rank_pattern": {"q": 8}, "alpha_pattern": {"q": 64}, "use_rslora": True},
            ["use_rslora", "rank_pattern", "alpha_pattern"],
        ),
    ],
    ids=str,
)
def test_what_goes_into_the_weights(settings: dict[str, Any], named: list[str]) -> None:
    assert settings_to_fold(settings) == named


@pytest.mark.parametrize(("rank", "most"), [(1, 8), (16, 16), (24, 32), (300, 320), (512, 512), (513, None)])
def test_vllm_is_told_a_rank_that_it_takes(rank: int, most: int | None) -> None:
    assert vllm_rank(rank) == most
