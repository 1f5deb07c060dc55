"""Token ids: which of them stand for a token, its text, its bytes."""

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
"""The byte that each character of a byte-level vocabulary stands for (GPT-2, Radford et al., 2019: bytes without a
visible character are mapped to code points above 255, in order)."""


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return one more than the largest token id; not every id below it has to be a token."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def known_ids(tokenizer: PreTrainedTokenizerBase, rows: int) -> Tensor | None:
    """Return, bool [rows], which of the first ``rows`` ids are tokens; None if all are.

    Many models have a padded embedding matrix, with more rows than their tokenizer has tokens.
    """
    known = torch.zeros(rows, dtype=torch.bool)
    known[[token_id for token_id in tokenizer.get_vocab().values() if token_id < rows]] = True
    return None if bool(known.all()) else known


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int, *, first: bool = False) -> str:
    """Return the text of one token inside a text, the name of a special token, "" for an id that is no token.

    ``first``: its text at the beginning, where some tokenizers drop a space. Part of a character is shown as
    ``UNFINISHED``; ``token_bytes`` has its bytes.
    """
    inside = _inside(tokenizer, token_id)
    if not inside:
        return str(tokenizer.convert_ids_to_tokens(token_id) or "")
    return decode(tokenizer, [token_id]) if first else inside


def token_bytes(
    tokenizer: PreTrainedTokenizerBase, token_id: int, *, first: bool = False
) -> list[int] | None:
    """Return the bytes of one token, complete characters or not; None for a special token.

    Byte-level vocabularies spell bytes as characters; SentencePiece falls back to tokens such as ``<0xE4>``.
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
    """True if a token has a name but no text."""
    return not _inside(tokenizer, token_id)


def _inside(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return the text that a token adds after other text; decoded alone, it could lose a leading space."""
    before = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).ids
    start, whole = decode(tokenizer, before), decode(tokenizer, [*before, token_id])
    return whole[len(start) :] if whole.startswith(start) else decode(tokenizer, [token_id])
