from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from backend.core.encoding import word_cache as room
from backend.core.encoding.word_cache import word_cache

CORPUS = [
    "one two  three   four\n\nfive\n  six\t\tseven  8 99 123 4567\n\n1. it's we'll I'M don't!\n\n\n  (a) {b}: c,d ",
    "<x> y z!!\n\n ??  ...\n\n\t\tdef f(x):\n    return  x\n\n\n    'quoted' ",
    "\u00e9\u00e8 \u6f22\u5b57 \u6f22 e\u0301 ",
] * 3
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
byte_level = pre_tokenizers.ByteLevel
RULES = {
    "gpt2": byte_level(add_prefix_space=False),
    "digits": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), byte_level(add_prefix_space=False)]
    ),
    "llama3": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), byte_level(add_prefix_space=False, use_regex=False)]
    ),
    "qwen2": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3.replace("{1,3}", "")), "isolated"),
            byte_level(add_prefix_space=False, use_regex=False),
        ]
    ),
}
UNSAFE = {
    "prefix space": byte_level(add_prefix_space=True),
    "no words": byte_level(add_prefix_space=False, use_regex=False),
    "another expression": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\w+ \w+"), "isolated"),
            byte_level(add_prefix_space=False, use_regex=False),
        ]
    ),
    "delimiters merged": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), "merged_with_next"),
            byte_level(add_prefix_space=False, use_regex=False),
        ]
    ),
    "other part": pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), byte_level(add_prefix_space=False)]),
    "not bytes": pre_tokenizers.Metaspace(),
    "bytes not last": pre_tokenizers.Sequence([byte_level(add_prefix_space=False), pre_tokenizers.Digits()]),
}
blanks = st.sampled_from([" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "\x1c", "\x85"])
marks = st.sampled_from(["\u0301", "\u200d", "\u200b", "\u180e", "\ufeff", "\x00", "!", "'s", "<|e|>"])
words = st.sampled_from(["1", "23", "a", "the", "\u00e9", "e\u0301", "\u6f22", "\U0001f389"])
texts = st.lists(blanks | marks | words | st.text(max_size=3), max_size=12).map("".join)


@cache
def trained(rule: str, normalizer: str = "none") -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = {**RULES, **UNSAFE}[rule]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.normalizer = {"none": None, "nfc": normalizers.NFC(), "lower": normalizers.Lowercase()}[
        normalizer
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|e|>"],
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


def fast(rule: str, normalizer: str = "none") -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(trained(rule, normalizer))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|e|>")


def whole(tokenizer: PreTrainedTokenizerFast, text: str, boundary: int) -> tuple[list[int], int]:
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    return encoding.ids, sum(end <= boundary for _, end in encoding.offsets) if boundary else 0


@pytest.mark.parametrize("normalizer", ["none", "nfc"])
@pytest.mark.parametrize("rule", RULES)
@given(rows=st.lists(texts, max_size=4), data=st.data())
def test_words_give_the_ids_and_counts_of_the_whole(
    rule: str, normalizer: str, rows: list[str], data: st.DataObject
) -> None:
    tokenizer = fast(rule, normalizer)
    boundaries = [data.draw(st.integers(0, len(text)), label="boundary") for text in rows]
    expected = [whole(tokenizer, text, boundary) for text, boundary in zip(rows, boundaries, strict=True)]
    cache_ = word_cache(tokenizer)
    assert cache_.encode(rows, boundaries) == expected
    assert cache_.encode(rows, boundaries) == expected  # and once more, now that all words are known


def test_the_vocabulary_under_test_has_tokens_of_several_spaces() -> None:
    assert {"ĠĠ", "ĊĊ"} <= set(fast("gpt2").get_vocab())


def test_what_the_tokenizer_puts_around_texts_is_left_out() -> None:
    tokenizer = fast("gpt2")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|e|> $A <|e|>", special_tokens=[("<|e|>", 0)]
    )
    assert word_cache(tokenizer).encode(["one two"], [4]) == [whole(tokenizer, "one two", 4)]


def test_a_full_cache_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_CAPACITY", 3)
    tokenizer = fast("gpt2")
    cache_ = word_cache(tokenizer)
    rows = [["one two three four"], ["five six"], ["one two"]]
    found = [cache_.encode(row, [4]) for row in rows]
    assert found == [[whole(tokenizer, row[0], 4)] for row in rows]
    assert len(cache_._ids) <= 4


@pytest.mark.parametrize("rule", UNSAFE)
def test_an_unknown_word_rule_has_no_cache(rule: str) -> None:
    assert word_cache(fast(rule)) is None


def test_a_normalizer_that_changes_text_has_no_cache() -> None:
    assert word_cache(fast("gpt2", "lower")) is None


@pytest.mark.parametrize(
    "token",
    [
        AddedToken("<m>", lstrip=True),
        AddedToken("<m>", rstrip=True),
        AddedToken("<m>", single_word=True),
        AddedToken("two words"),
    ],
)
def test_an_added_token_that_reaches_out_has_no_cache(token: AddedToken) -> None:
    tokenizer = fast("gpt2")
    tokenizer.add_tokens([token])
    assert word_cache(tokenizer) is None


def test_a_random_or_other_model_has_no_cache() -> None:
    dropped = fast("gpt2")
    dropped.backend_tokenizer.model.dropout = 0.5
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<|e|>": 0}, unk_token="<|e|>")), eos_token="<|e|>"
    )
    assert [word_cache(dropped), word_cache(words)] == [None, None]


def test_no_word_rule_has_no_cache() -> None:
    tokenizer = fast("gpt2")
    tokenizer.backend_tokenizer.pre_tokenizer = None
    assert word_cache(tokenizer) is None
