"""A cache of the ids of words, for byte-level BPE tokenizers whose tokens never cross a word boundary.

In these tokenizers no token has a visible character followed by a space: their pre-tokenizer lets a space only begin
a word. So a text can be cut before each single space between two visible characters; words are looked up, and only
new ones go to the tokenizers library. For any other tokenizer there is no cache.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import chain
from typing import Any

from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerBase

_CUT = re.compile(r" (?<=\S )(?=\S)")
_FIRST = "\n"  # before a text's first word in the cache; no later word begins with white space
_CAPACITY = 100_000  # words, about 25 MB

# Splitting expressions of published byte-level tokenizers in which white space only begins a word.
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_KNOWN_SPLITS = frozenset(
    f"{_CONTRACTIONS}|{_LETTERS}|{digits}|{_REST}" for digits in (r"\p{N}{1,3}", r"\p{N}")
)


class WordCache:
    """The ids and offsets of the words seen so far, for one tokenizer; created by ``word_cache``."""

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._ids: dict[str, tuple[int, ...]] = {}
        self._ends: dict[str, tuple[int, ...]] = {}

    def encode(self, texts: Sequence[str], boundaries: Sequence[int]) -> list[tuple[list[int], int]]:
        """Return for each text its ids, and how many of its tokens end at or before its boundary (in characters)."""
        if len(self._ids) > _CAPACITY:
            self._ids.clear()
            self._ends.clear()
        cuts = [_CUT.split(text) for text in texts]
        for cut in cuts:
            cut[0] = _FIRST + cut[0]
        self._learn(sorted(set(chain.from_iterable(cuts)).difference(self._ids)))
        lookup = self._ids.__getitem__
        return [
            (list(chain.from_iterable(map(lookup, cut))), self._count(cut, boundary) if boundary else 0)
            for cut, boundary in zip(cuts, boundaries, strict=True)
        ]

    def _learn(self, words: list[str]) -> None:
        encodings = self._backend.encode_batch([_text(word) for word in words], add_special_tokens=False)
        for word, encoding in zip(words, encodings, strict=True):
            self._ids[word] = tuple(encoding.ids)

    def _count(self, cut: Sequence[str], boundary: int) -> int:
        count = start = 0
        for word in cut:
            length = len(_text(word))
            if start + length > boundary:
                return count + bisect_right(self._word_ends(word), boundary - start)
            start += length
            count += len(self._ids[word])
        return count

    def _word_ends(self, word: str) -> tuple[int, ...]:
        if word not in self._ends:
            encoding = self._backend.encode(_text(word), add_special_tokens=False)
            self._ends[word] = tuple(end for _, end in encoding.offsets)
        return self._ends[word]


def word_cache(tokenizer: PreTrainedTokenizerBase) -> WordCache | None:
    """Return an empty cache for ``tokenizer``; None if cutting its texts into words is not known to be safe."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    model = backend.model
    normalizer = _state(backend.normalizer)
    safe = (
        isinstance(model, models.BPE)
        and model.dropout is None
        and (normalizer is None or normalizer["type"] == "NFC")
        and _only_begins_words(_state(backend.pre_tokenizer))
        and not any(_reaches_out(token) for token in tokenizer.added_tokens_decoder.values())
    )
    return WordCache(backend) if safe else None


def _state(component: Any) -> dict[str, Any] | None:
    """Return a component of a tokenizer as tokenizer.json describes it."""
    state: dict[str, Any] | None = None if component is None else json.loads(component.__getstate__())
    return state


def _only_begins_words(rule: dict[str, Any] | None) -> bool:
    """True if under this pre-tokenizer a single space between visible characters can only begin a word."""
    if rule is None:
        return False
    match rule:
        case {
            "type": "Sequence",
            "pretokenizers": [*before, {"type": "ByteLevel", "add_prefix_space": False}],
        }:
            byte_level = rule["pretokenizers"][-1]
        case {"type": "ByteLevel", "add_prefix_space": False}:
            before, byte_level = [], rule
        case _:
            return False
    splits = [part for part in before if part["type"] == "Split"]
    known = all(
        part["pattern"].get("Regex") in _KNOWN_SPLITS
        and part["behavior"] == "Isolated"
        and not part["invert"]
        for part in splits
    )
    others = {part["type"] for part in before} - {"Split", "Digits"}
    return known and not others and (bool(splits) or byte_level["use_regex"])


def _reaches_out(token: AddedToken) -> bool:
    """True if an added token matches more than its own characters, or contains white space."""
    return token.lstrip or token.rstrip or token.single_word or any(map(str.isspace, token.content))


def _text(word: str) -> str:
    """Return the text of a cached word: the first of a text as it is, a later one with its space before it."""
    return word[1:] if word.startswith(_FIRST) else " " + word
