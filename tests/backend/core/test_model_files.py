"""The JSON files beside weights, as readers of any age understand them: backend/core/model_files.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PretrainedConfig

from backend.core.model_files import (
    effective,
    without_new_names,
    write_config,
    write_generation_config,
    write_tokenizer,
)
from tests.tiny import tiny_tokenizer

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "factor": 8.0}
FACTORS = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


def written(config: PretrainedConfig, folder: Path, dtype: str = "float32") -> dict[str, Any]:
    """What ``write_config`` wrote."""
    write_config(config, folder, dtype=dtype)
    settings: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return settings


@pytest.mark.parametrize(
    ("family", "settings", "classic"),
    [
        ("llama", {"rope_parameters": {"rope_theta": 1e6}}, {"rope_theta": 1e6, "rope_scaling": None}),
        (
            "qwen2",
            {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}},
            {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        ),
        (
            "gpt_neox",
            {"rope_parameters": {"rope_theta": 3e4, "partial_rotary_factor": 0.5}},
            {"rotary_emb_base": 3e4, "rotary_pct": 0.5},
        ),
        (
            "gemma3_text",
            {
                "rope_parameters": {
                    "full_attention": LINEAR | {"rope_theta": 2e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
                }
            },
            {"rope_theta": 2e6, "rope_local_base_freq": 2e4, "rope_scaling": LINEAR},
        ),
        (
            "phi3",
            {
                "hidden_size": 32,
                "num_attention_heads": 4,
                "max_position_embeddings": 256,
                "original_max_position_embeddings": 16,
                "rope_parameters": FACTORS | {"rope_type": "longrope", "rope_theta": 1e4, "factor": 16.0},
            },
            {"rope_theta": 1e4, "rope_scaling": FACTORS | {"type": "longrope"}},
        ),
    ],
)
def test_positions_stand_under_the_names_that_older_readers_know(
    family: str, settings: dict[str, Any], classic: dict[str, Any], tmp_path: Path
) -> None:
    config = AutoConfig.for_model(family, **settings)
    found = written(config, tmp_path)
    assert {name: found.get(name) for name in classic} == classic
    for names in (found, without_new_names(found)):
        assert (
            effective(type(config).from_dict(names))["rope_parameters"]
            == effective(config)["rope_parameters"]
        )


def test_a_nested_configuration_carries_them_as_well(tmp_path: Path) -> None:
    inner = {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 3e6}}}
    found = written(AutoConfig.for_model("gemma3", text_config=inner), tmp_path)
    assert found["text_config"]["rope_theta"] == 3e6


def test_a_family_that_never_had_classic_names_is_left_as_it_is(tmp_path: Path) -> None:
    """Beside its own names the classic ones would be read as another setting."""
    config = AutoConfig.for_model("gemma4_text")
    found = written(config, tmp_path)
    assert "rope_theta" not in found
    assert effective(AutoConfig.from_pretrained(tmp_path))["rope_parameters"] == config.rope_parameters


def test_the_precision_of_the_weights_stands_under_both_names(tmp_path: Path) -> None:
    found = written(AutoConfig.for_model("llama"), tmp_path, dtype="bfloat16")
    assert (found["dtype"], found["torch_dtype"]) == ("bfloat16", "bfloat16")


def test_a_longrope_factor_that_is_left_out_is_derived() -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 256}
    rope = FACTORS | {"type": "longrope", "rope_theta": 1e4}
    config = AutoConfig.for_model("phi3", **sizes, original_max_position_embeddings=16, rope_parameters=rope)
    assert effective(config)["rope_parameters"]["factor"] == 16.0
    assert "type" not in effective(config)["rope_parameters"]


def test_a_tokenizer_is_written_for_the_general_class_without_private_keys(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("llama3")
    tokenizer.save_pretrained(tmp_path / "base")
    again = AutoTokenizer.from_pretrained(tmp_path / "base", local_files_only=True)
    again.add_special_tokens({"extra_special_tokens": ["<|odd|>"]})
    write_tokenizer(again, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]
    assert settings["additional_special_tokens"] == ["<|odd|>"]
    assert not settings.keys() & {"is_local", "local_files_only", "backend", "extra_special_tokens"}
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert read.backend_tokenizer.to_str() == again.backend_tokenizer.to_str()
    assert (read.extra_special_tokens, read.chat_template) == (["<|odd|>"], again.chat_template)


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"do_sample": False, "temperature": 0.9, "top_p": 0.6}, {"do_sample": False}),
        ({"temperature": 0.9, "repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"do_sample": True, "temperature": 0.9}, {"do_sample": True, "temperature": 0.9}),
    ],
)
def test_rules_of_generation_without_effect_are_left_out(
    rules: dict[str, Any], kept: dict[str, Any], tmp_path: Path
) -> None:
    """Older readers call them invalid when they save the model again."""
    write_generation_config(GenerationConfig(eos_token_id=3, **rules), tmp_path)
    found = json.loads((tmp_path / "generation_config.json").read_text("utf-8"))
    del found["transformers_version"]
    assert found == kept | {"eos_token_id": 3}
