"""The tokenizer of an export beside the one of training: backend/export/vocabulary.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig, PreTrainedTokenizerBase

from backend.core.model_files import write_generation_config, write_tokenizer
from backend.core.tokenizer import load_tokenizer
from backend.errors import ModelError
from backend.export.vocabulary import check_ends, check_tokenizer, unknown_tokenizer_settings
from tests.backend.export.harm import edit_json
from tests.backend.export.spoil import spoilt
from tests.tiny import FAMILIES, tiny_tokenizer

CUT = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}


def trained(folder: Path, family: Any) -> PreTrainedTokenizerBase:
    """A tokenizer as a run has it, and its files in ``folder``."""
    tiny_tokenizer(family).save_pretrained(folder / "base")
    tokenizer = load_tokenizer(folder / "base")
    write_tokenizer(tokenizer, folder)
    return tokenizer


def found(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """All that is said of a tokenizer's files, wrong or unknown; that they cannot be read is said as well."""
    try:
        return [*check_tokenizer(folder, tokenizer), *unknown_tokenizer_settings(folder, tokenizer)]
    except ModelError as error:
        return [error.message]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_of_training_are_the_same(family: str, tmp_path: Path) -> None:
    tokenizer = trained(tmp_path, family)
    assert found(tmp_path, tokenizer) == []


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_every_value_that_is_changed_alone_is_named(name: str, tmp_path: Path) -> None:
    """Vocabulary, merges, pre-tokenizer, post-processor, decoder, special tokens, lengths and sides."""
    tokenizer = trained(tmp_path, "llama3")
    changes = list(spoilt((tmp_path / name).read_text("utf-8")))
    missed = []
    for said, _, document in changes:
        (tmp_path / name).write_text(document, "utf-8")
        missed += [said] * (not found(tmp_path, tokenizer))
    assert missed == []
    assert len(changes) > 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_max_length": 16}, "its model_max_length is 16, but"),
        ({"padding_side": "left"}, "its padding_side is 'left', but 'right' in training"),
        ({"add_bos_token": True}, "tokenizer_config.json has the key add_bos_token"),
        ({"pad_token": "a"}, "its pad_token is 'a', but '<|end_of_text|>' in training"),
        ({"tokenizer_class": "TokenizersBackend"}, "tokenizer_config.json has tokenizer_class"),
        ({"chat_template": "{{ 1 }}"}, "tokenizer_config.json has chat_template"),
        ({"foo": 1}, "tokenizer_config.json has the key foo"),
    ],
)
def test_a_setting_of_the_tokenizer_is_told(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    tokenizer = trained(tmp_path, "llama3")
    edit_json(tmp_path / "tokenizer_config.json", **change)
    assert any(each.startswith(said) for each in found(tmp_path, tokenizer))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}},
            "truncation",
        ),
        ({"normalizer": {"type": "NFC"}}, "normalizer"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre tokenizer"),
    ],
)
def test_a_part_of_the_tokenizer_is_told(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    tokenizer = trained(tmp_path, "chatml")
    edit_json(tmp_path / "tokenizer.json", **change)
    assert found(tmp_path, tokenizer) == [f"the {said} of its tokenizer differs from that of training"]


def test_another_chat_template_is_told(tmp_path: Path) -> None:
    tokenizer = trained(tmp_path, "chatml")
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert found(tmp_path, tokenizer) == ["its chat template differs from the one used in training"]


@pytest.mark.parametrize(
    ("ends", "named", "said"),
    [
        ([1, 5], frozenset(), []),
        (5, frozenset({1}), []),
        (5, frozenset(), ["the end tokens ['<|im_end|>'] are missing"]),
        ([1, 5, 7], frozenset(), ["answers also end with ["]),
        ([1, 5, 9999], frozenset(), ["answers also end with [9999]"]),
    ],
)
def test_end_tokens_are_those_of_training_no_fewer_and_no_more(
    ends: Any, named: frozenset[int], said: list[str], tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer("chatml")
    write_generation_config(GenerationConfig(eos_token_id=[1, 5]), tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    told = list(check_ends(tmp_path, GenerationConfig(eos_token_id=[1, 5]), tokenizer, named))
    assert [each[: len(start)] for each, start in zip(told, said, strict=True)] == said
