"""config.json and generation_config.json beside the trained model's: backend/export/settings.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PretrainedConfig

from backend.core.model_files import write_config, write_generation_config
from backend.export.settings import (
    WITHOUT_MEANING,
    check_config,
    check_rules,
    has_meaning,
    same,
    unknown_rules,
    unknown_settings,
)
from tests.backend.export.families import family_config, family_folder
from tests.backend.export.harm import edit_json
from tests.backend.export.spoil import spoilt


def written(config: PretrainedConfig, folder: Path) -> Path:
    write_config(config, folder, dtype="bfloat16")
    return folder / "config.json"


def found(file: Path, config: PretrainedConfig) -> list[str]:
    """All that is said of a config.json, wrong or unknown."""
    return [*check_config(file, config, "bfloat16"), *unknown_settings(file, config)]


@pytest.mark.parametrize("name", ["llama", "phi3"])  # the others: make certificate-fuzz
def test_every_setting_that_is_changed_alone_is_named(name: str, tmp_path: Path) -> None:
    """Those without meaning are not; the untouched file is as it should be."""
    config = family_config(name)
    file = written(config, tmp_path)
    assert found(file, config) == []
    changes = list(spoilt(file.read_text("utf-8")))
    missed, loud = [], []
    for said, key, document in changes:
        file.write_text(document, "utf-8")
        told = found(file, config)
        missed += [said] * (has_meaning(key) and not told)
        loud += [said] * (bool(told) and not has_meaning(key))
    assert (missed, loud) == ([], [])
    assert len(changes) > 25


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rope_theta": 5e5}, "rope_parameters.rope_theta is 500000 under its classic name, but 10000"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
            "rope_parameters.rope_theta is 500000, but 10000 in the trained model",
        ),
        ({"max_position_embeddings": 48}, "max_position_embeddings is 48, but 2048 in the trained model"),
        ({"eos_token_id": 5}, "eos_token_id is 5, but 2 in the trained model"),
        ({"torch_dtype": "float16"}, "torch_dtype is float16, but the weights are stored as bfloat16"),
        ({"model_type": "qwen2"}, "model_type is qwen2, but llama in the trained model"),
        ({"hidden_act": {}}, "config.json cannot be read"),
        ({"transformers_version": "none"}, "transformers_version is none"),
        ({"return_dict": False}, "return_dict is False, but True in the trained model"),
    ],
)
def test_it_says_which_setting_and_how(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model("llama", architectures=["LlamaForCausalLM"])
    file = written(config, tmp_path)
    edit_json(file, **change)
    assert any(each.startswith(said) for each in check_config(file, config, "bfloat16"))


def test_a_setting_that_is_left_out_is_its_default(tmp_path: Path) -> None:
    config = AutoConfig.for_model("llama", num_key_value_heads=4)
    file = written(config, tmp_path)
    settings = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({k: v for k, v in settings.items() if k != "rms_norm_eps"}))
    assert found(file, config) == []
    file.write_text(json.dumps({k: v for k, v in settings.items() if k != "num_key_value_heads"}))
    assert found(file, config) == ["num_key_value_heads is 32, but 4 in the trained model"]


def test_a_key_that_nobody_knows_is_named_and_not_wrong(tmp_path: Path) -> None:
    config = AutoConfig.for_model("llama")
    file = written(config, tmp_path)
    edit_json(file, foo=1, use_cache=False, some_dropout=0.5, transformers_version="4.40.0.dev0")
    assert list(check_config(file, config, "bfloat16")) == []
    assert unknown_settings(file, config) == ["config.json has the key foo"]


OTHERWISE: dict[str, Any] = {
    "_name_or_path": "other/model",
    "_from_model_config": True,
    "use_cache": False,
    "initializer_range": 0.9,
    "initializer_factor": 0.9,
    "pretraining_tp": 2,
    "chunk_size_feed_forward": 1,
    "gradient_checkpointing": True,
    "router_aux_loss_coef": 0.7,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_scores": True,
    "output_logits": True,
    "return_dict_in_generate": True,
    "id2label": {"0": "A", "1": "B", "2": "C"},
    "label2id": {"A": 0, "B": 1, "C": 2},
    "problem_type": "regression",
}
"""Every key without meaning with a value that it seldom has."""


def test_a_model_answers_the_same_whatever_the_keys_without_meaning_say(tmp_path: Path) -> None:
    assert OTHERWISE.keys() == WITHOUT_MEANING.keys()
    folder = family_folder(tmp_path / "model", "mixtral")
    before = _answer(folder)
    edit_json(folder / "config.json", **OTHERWISE)
    assert _answer(folder) == before


def _answer(folder: Path) -> list[int]:
    """Six tokens that transformers itself says, with its cache."""
    ids = torch.tensor([[5, 9, 11, 40, 3]])
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    tokens: list[int] = getattr(said, "sequences", said)[0].tolist()
    return tokens


def test_what_a_reader_fails_on_has_a_meaning(tmp_path: Path) -> None:
    """transformers 4 cannot answer with a cache where a mixture of experts returns its router's logits."""
    config = family_config("mixtral")
    file = written(config, tmp_path)
    edit_json(file, output_router_logits=True)
    assert [*check_config(file, config, "bfloat16")] == [
        "output_router_logits is True, but False in the trained model"
    ]


def test_every_key_without_meaning_has_its_reason() -> None:
    assert all(len(reason.split()) > 1 for reason in WITHOUT_MEANING.values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"temperature": 9.0, "do_sample": True},
            ["do_sample True instead of None", "temperature 9 instead of None"],
        ),
        ({"repetition_penalty": 1.02}, ["repetition_penalty 1.02 instead of None"]),
        ({"max_new_tokens": 3}, ["max_new_tokens 3 instead of None"]),
        ({"pad_token_id": 5}, ["pad_token_id 5 instead of 0"]),
        ({"temperature": 1.0, "do_sample": False, "num_beams": 1, "use_cache": False}, []),
    ],
)
def test_rules_of_generation_are_compared_as_a_whole(
    change: dict[str, Any], said: list[str], tmp_path: Path
) -> None:
    """What says the same as a rule that is not there is no difference."""
    wanted = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    write_generation_config(wanted, tmp_path)
    file = tmp_path / "generation_config.json"
    edit_json(file, **change)
    assert list(check_rules(file, wanted)) == [f"generation_config.json has {each}" for each in said]
    assert unknown_rules(file, wanted) == []


def test_a_rule_that_nobody_knows_is_named(tmp_path: Path) -> None:
    wanted = GenerationConfig(eos_token_id=2)
    write_generation_config(wanted, tmp_path)
    edit_json(tmp_path / "generation_config.json", foo=1)
    assert unknown_rules(tmp_path / "generation_config.json", wanted) == [
        "generation_config.json has the key foo"
    ]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1.0, 1, True),
        (1e-5, 9.999999e-6, True),
        (1.0, 1.1, False),
        (True, 1, False),
        ([1], [1, 2], False),
        ("a", "a", True),
    ],
)
def test_numbers_are_equal_within_the_rounding_of_a_float(one: Any, other: Any, *, equal: bool) -> None:
    assert same(one, other) is equal
