"""What a token id stands for, in every kind of tokenizer: backend/core/vocabulary.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from backend.core.tokenizer import IncrementalDecoder, decode
from backend.core.vocabulary import is_special, known_ids, token_bytes, token_text, vocabulary_size
from tests.tiny import tiny_tokenizer


def _sentencepiece(*decoding: decoders.Decoder) -> PreTrainedTokenizerBase:
    words = ["<unk>", "<s>", "</s>", "▁", "▁▁", "a", "b", "▁a", "▁b", "ab", "▁ab", ".", "é"]
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {
        word: 256 + place for place, word in enumerate(words)
    }
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *decoding]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


KINDS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "byte level": tiny_tokenizer,
    "llama 2": lambda: _sentencepiece(decoders.Strip(" ", 1, 0)),
    "gemma": _sentencepiece,
}


@pytest.mark.parametrize("text", ["a b ab", "🙂", "a 東京.", "  a", "é\n"])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_join_to_the_text_and_their_bytes_to_its_bytes(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode(text, add_special_tokens=False)

    own = [token_bytes(tokenizer, token_id, first=not place) or [] for place, token_id in enumerate(ids)]

    assert bytes(byte for each in own for byte in each).decode() == decode(tokenizer, ids)


@pytest.mark.parametrize("kind", ["llama 2", "gemma"])
def test_a_lone_space_is_text_and_no_special_token(kind: str) -> None:
    tokenizer = KINDS[kind]()
    space = tokenizer.convert_tokens_to_ids("▁")

    assert (token_text(tokenizer, space), token_bytes(tokenizer, space)) == (" ", [32])
    assert not is_special(tokenizer, space)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_have_a_name_and_no_bytes(kind: str) -> None:
    tokenizer = KINDS[kind]()
    end = tokenizer.eos_token_id

    assert (token_text(tokenizer, end), token_bytes(tokenizer, end)) == (tokenizer.eos_token, None)
    assert is_special(tokenizer, end)


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_has_a_token_of_its_own(kind: str) -> None:
    tokenizer = KINDS[kind]()
    vocabulary = tokenizer.get_vocab().values()

    single = [
        own[0] for own in (token_bytes(tokenizer, each) for each in vocabulary) if own and len(own) == 1
    ]

    assert {byte for byte in single if byte > 127} == {*range(128, 256)} - _NEVER_IN_UTF8 | (
        _NEVER_IN_UTF8 & {*single}
    )


_NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_beyond_the_tokenizer_stands_for_nothing(kind: str) -> None:
    tokenizer = KINDS[kind]()
    beyond = vocabulary_size(tokenizer) + 3
    decoder = IncrementalDecoder(tokenizer)

    assert (token_text(tokenizer, beyond), token_bytes(tokenizer, beyond)) == ("", None)
    assert decoder.push(beyond) + decoder.finish() == ""


@pytest.mark.parametrize(("rows", "unknown"), [(399, []), (400, []), (403, [400, 401, 402])])
def test_which_rows_of_a_model_stand_for_a_token(rows: int, unknown: list[int]) -> None:
    known = known_ids(tiny_tokenizer(), rows)

    found = [] if known is None else [token_id for token_id in range(rows) if not known[token_id]]
    assert found == unknown
