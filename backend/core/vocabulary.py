"""What each token id stands for: whether anything at all, its text, and its bytes."""

from __future__ import annotations

import re

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from backend.core.tokenizer import decode

UNFINISHED = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _SHOWN]
_BYTES = {chr(byte): byte for byte in _SHOWN} | {chr(256 + place): byte for place, byte in enumerate(_HIDDEN)}
"""The byte that each letter of a byte-level vocabulary stands for (GPT-2, Radford et al. 2019: bytes that cannot be
shown are moved above 255, in order)."""


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return one more than the largest token id; ids below it may stand for nothing."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def known_ids(tokenizer: PreTrainedTokenizerBase, rows: int) -> Tensor | None:
    """Return which of the first ``rows`` ids stand for a token, bool [rows]; None where all of them do.

    Many models have more rows than their tokenizer has tokens: padding that nobody trained.
    """
    known = torch.zeros(rows, dtype=torch.bool)
    known[[token_id for token_id in tokenizer.get_vocab().values() if token_id < rows]] = True
    return None if bool(known.all()) else known


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int, *, first: bool = False) -> str:
    """Return one token as it reads inside a text, special tokens by their name, "" for an id that is no token.

    ``first`` is as it reads at the beginning, where some tokenizers leave a space away. A part of a character has
    ``UNFINISHED`` for what is missing; its bytes are those of ``token_bytes``.
    """
    inside = _inside(tokenizer, token_id)
    if not inside:
        return str(tokenizer.convert_ids_to_tokens(token_id) or "")
    return decode(tokenizer, [token_id]) if first else inside


def token_bytes(
    tokenizer: PreTrainedTokenizerBase, token_id: int, *, first: bool = False
) -> list[int] | None:
    """Return the bytes of one token's own text, also where they are a part of a character; None for a special one.

    Byte-level vocabularies spell bytes as letters, SentencePiece falls back to tokens such as ``<0xE4>``.
    """
    inside = _inside(tokenizer, token_id)
    if not inside:
        return None
    if UNFINISHED not in inside:
        return list(token_text(tokenizer, token_id, first=first).encode())
    spelled = str(tokenizer.convert_ids_to_tokens(token_id))
    if found := _BYTE_TOKEN.fullmatch(spelled):
        return [int(found[1], 16)]
    own = [_BYTES.get(letter) for letter in spelled]
    return list(inside.encode()) if None in own else [byte for byte in own if byte is not None]


def is_special(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bool:
    """Whether a token has a name and no text."""
    return not _inside(tokenizer, token_id)


def _inside(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """What a token adds to a text that stands before it: at the beginning a lone space would be left away."""
    before = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).ids
    start, whole = decode(tokenizer, before), decode(tokenizer, [*before, token_id])
    return whole[len(start) :] if whole.startswith(start) else decode(tokenizer, [token_id])
