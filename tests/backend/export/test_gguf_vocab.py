"""The tokenizer in a GGUF file: backend/export/gguf_vocab.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from backend.errors import ExportError
from backend.export.gguf_vocab import Vocabulary, find_word_rule, read_vocabulary
from tests.tiny import Family, tiny_tokenizer

DIGITS = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)


def read(
    tokenizer: PreTrainedTokenizerBase, folder: Path, *, rows: int = 0, ends: list[int] | None = None
) -> Vocabulary:
    tokenizer.save_pretrained(folder)
    return read_vocabulary(tokenizer, folder, rows=rows or len(tokenizer), eos_token_ids=ends)


@pytest.mark.parametrize(
    ("family", "rule"), [("chatml", "gpt-2"), ("llama3", "llama-bpe"), ("base", "gpt-2")]
)
def test_the_word_rule_is_recognised(family: Family, rule: str) -> None:
    assert find_word_rule(tiny_tokenizer(family)) == rule


def test_digits_one_by_one_are_smollms_rule() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = DIGITS
    assert find_word_rule(tokenizer) == "smollm"


@pytest.mark.parametrize(
    "odd",
    [
        pre_tokenizers.Whitespace(),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.Split(Regex("x"), "isolated"),
    ],
    ids=["whitespace", "prefix-space", "other-words"],
)
def test_another_rule_is_refused_and_never_guessed(odd: pre_tokenizers.PreTokenizer) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = odd
    with pytest.raises(ExportError) as caught:
        find_word_rule(tokenizer)
    assert caught.value.code == "unsupported-tokenizer"


def test_another_kind_of_vocabulary_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with pytest.raises(ExportError, match="WordLevel"):
        find_word_rule(PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>"))


def test_every_token_keeps_its_place_and_kind(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<mine>", special=False), AddedToken("<|tool|>", special=False)])
    found = read(tokenizer, tmp_path, rows=len(tokenizer) + 2)
    ids = tokenizer.get_vocab()
    assert all(found.tokens[index] == token for token, index in ids.items())
    assert found.kinds[ids["<|im_start|>"]] == TokenType.CONTROL
    assert found.kinds[ids["<|tool|>"]] == TokenType.CONTROL
    assert found.kinds[ids["<mine>"]] == TokenType.USER_DEFINED
    assert found.kinds[ids["a"]] == TokenType.NORMAL
    assert found.kinds[-2:] == [TokenType.UNUSED] * 2
    assert found.tokens[-1] == f"[PAD{len(tokenizer) + 1}]"


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="only 100 embeddings"):
        read(tiny_tokenizer(), tmp_path, rows=100)


def test_ends_beside_eos_are_named(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("llama3")
    found = read(tokenizer, tmp_path, ends=[tokenizer.eos_token_id])
    assert found.turn_ends == [tokenizer.convert_tokens_to_ids("<|eot_id|>")]
    assert read(tiny_tokenizer(), tmp_path).turn_ends == []


def test_bos_is_said_as_the_tokenizer_does_it(tmp_path: Path) -> None:
    assert not read(tiny_tokenizer("llama3"), tmp_path).add_bos
    tokenizer = tiny_tokenizer("llama3")
    from tokenizers.processors import TemplateProcessing

    bos = (str(tokenizer.bos_token), tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos[0]} $A", pair=f"{bos[0]} $A $B", special_tokens=[bos]
    )
    assert read(tokenizer, tmp_path).add_bos


def test_special_ids_are_named_also_where_the_token_is_an_ordinary_one(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("qwen3")
    tokenizer.pad_token = "a"
    ids = {role: getattr(tokenizer, f"{role}_token_id") for role in ("eos", "pad")}
    assert read(tokenizer, tmp_path).special.special_token_ids == ids
