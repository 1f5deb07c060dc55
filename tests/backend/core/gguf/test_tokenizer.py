from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers

from backend.core.gguf.tokenizer import special_token, tokenizer_files
from backend.errors import ModelError

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def metadata(**changes: Any) -> dict[str, Any]:
    tokens = ["<s>", "</s>", "<tool>", *ALPHABET, "Ġa", "ab"]
    entries = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [3, 3, 4] + [1] * (len(tokens) - 3),
        "merges": ["Ġ a", "a b"],
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (entries | changes).items()}


def built(**changes: Any) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(tokenizer_files(metadata(**changes))["tokenizer.json"]))


def test_merges_apply_and_bytes_come_back() -> None:
    tokenizer = built()
    assert tokenizer.encode(" ab é").tokens == ["Ġa", "b", "Ġ", "Ã", "©"]
    assert tokenizer.decode(tokenizer.encode(" ab é").ids) == " ab é"


def test_control_tokens_are_special_and_user_defined_ones_are_not() -> None:
    added = {token.content: token.special for token in built().get_added_tokens_decoder().values()}
    assert added == {"<s>": True, "</s>": True, "<tool>": False}


def test_a_vocabulary_without_types_has_no_added_tokens() -> None:
    assert built(token_type=[]).get_added_tokens_decoder() == {}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ["ab"]),
        ({"add_bos_token": True}, ["<s>", "ab"]),
        ({"add_eos_token": True}, ["ab", "</s>"]),
        ({"add_bos_token": True, "add_eos_token": True}, ["<s>", "ab", "</s>"]),
        ({"add_bos_token": True, "bos_token_id": None}, ["ab"]),
    ],
)
def test_plain_text_is_framed_as_the_file_asks(flags: dict[str, Any], expected: list[str]) -> None:
    tokenizer = built(**flags)
    assert tokenizer.encode("ab").tokens == expected
    assert tokenizer.encode("ab", add_special_tokens=False).tokens == ["ab"]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("gpt-2", ["123", "4", "!", "Ċ", "Ġ", "Ġ", "1"]),
        ("smollm", ["1", "2", "3", "4", "!", "Ċ", "ĠĠ", "1"]),
        ("llama-bpe", ["123", "4", "!Ċ", "Ġ", "Ġ", "1"]),
        ("qwen2", ["1", "2", "3", "4", "!Ċ", "Ġ", "Ġ", "1"]),
    ],
)
def test_the_word_rule_decides_what_can_merge(rule: str, expected: list[str]) -> None:
    """Every merge is there; SmolLM's rule cuts digits off before it looks at spaces, as llama.cpp has it."""
    tokens = [*metadata()["tokenizer.ggml.tokens"], "12", "123", "!Ċ", "ĠĠ"]
    merges = ["1 2", "12 3", "! Ċ", "Ġ Ġ"]
    assert built(pre=rule, tokens=tokens, merges=merges).encode("1234!\n  1").tokens == expected


def test_named_tokens_go_to_the_config() -> None:
    config = tokenizer_files(metadata(padding_token_id=1, unknown_token_id=2))["tokenizer_config.json"]
    assert config == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<tool>",
        "pad_token": "</s>",
    }


def test_tokens_without_an_id_are_not_named() -> None:
    config = tokenizer_files(metadata(bos_token_id=None))["tokenizer_config.json"]
    assert config.keys() & {"bos_token", "unk_token", "pad_token"} == set()


def test_two_texts_are_told_apart() -> None:
    pair = built(add_bos_token=True, add_eos_token=True).encode("ab", "ab")
    assert (pair.tokens, pair.type_ids) == (["<s>", "ab", "</s>", "ab", "</s>"], [0, 0, 0, 1, 0])


def test_added_tokens_take_nothing_around_them() -> None:
    assert built().encode("a <tool> b").tokens == ["a", "Ġ", "<tool>", "Ġ", "b"]
    assert built().encode("a<tool>b").tokens == ["a", "<tool>", "b"]


@pytest.mark.parametrize(("changes", "expected"), [({}, ""), ({"x": 1}, "")])
def test_no_template_is_an_empty_one(changes: dict[str, Any], expected: str) -> None:
    assert tokenizer_files(metadata(**changes))["chat_template.jinja"] == expected


def test_the_template_is_kept_as_it_is() -> None:
    entries = metadata() | {"tokenizer.chat_template": "{{ 'é' }}\n"}
    assert tokenizer_files(entries)["chat_template.jinja"] == "{{ 'é' }}\n"


@pytest.mark.parametrize(
    "changes", [{"model": "llama"}, {"model": None}, {"pre": "tekken"}, {"pre": "default"}]
)
def test_another_kind_of_tokenizer_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        tokenizer_files(metadata(**changes))
    assert caught.value.code == "unsupported-tokenizer"


@pytest.mark.parametrize(
    "changes", [{"tokens": ["a", "a"]}, {"merges": ["q nothere"]}, {"merges": ["alone"]}]
)
def test_a_vocabulary_that_does_not_add_up_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="token is there twice or a merge makes none"):
        tokenizer_files(metadata(**changes))


@pytest.mark.parametrize(("role", "expected"), [("bos", 0), ("eos", 1), ("unknown", None)])
def test_special_tokens_are_found_by_role(role: str, expected: int | None) -> None:
    assert special_token(metadata(), role) == expected
