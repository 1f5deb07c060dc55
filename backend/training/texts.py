"""What is measured on held-out texts: bits per byte, and how the model continues their beginnings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from backend.core.encoding.dataset import EncodedRows
from backend.core.encoding.examples import Question
from backend.core.tokenizer import decode
from backend.data.records import Row

BEGINNING_TOKENS = 32
"""The tokens of a text that a sample continues, or half of the text if that is less."""


def bits_per_byte(nats: float, size: int) -> float:
    """Return the loss per byte of text, in bits: ``nats`` summed over all trained tokens, ``size`` in UTF-8 bytes.

    Unlike the loss per token it is comparable between models with different tokenizers (Gao et al., 2020,
    arXiv:2101.00027, §3.1). The nats of the end token are counted, though it spells no byte.
    """
    return nats / math.log(2) / size


def predicted_bytes(rows: Sequence[Row], encoded: EncodedRows, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the UTF-8 bytes that the trained tokens of ``rows`` spell; 0 unless all rows are texts, used whole.

    The first token of a text is not predicted, so its bytes do not count, unless it is a BOS.
    """
    if encoded.cut or encoded.dropped or any(row.text is None for row in rows):
        return 0
    given = sum(len(decode(tokenizer, ids[:1]).encode()) for ids in _beginnings(encoded))
    return sum(len(row.text.encode()) for row in rows if row.text) - given


def continuations(
    rows: Sequence[Row], encoded: EncodedRows, tokenizer: PreTrainedTokenizerBase, *, count: int, length: int
) -> list[Question]:
    """Return at most ``count`` texts, spread evenly, as questions: the beginning, and ``length`` tokens after it."""
    texts = [
        (rows[number].place, ids)
        for number, ids in zip(np.unique(encoded.numbers).tolist(), _beginnings(encoded), strict=True)
        if rows[number].text is not None
    ]
    found = []
    for place, ids in texts[:: max(1, len(texts) // max(1, count))][:count]:
        head = min(BEGINNING_TOKENS, len(ids) // 2)
        prompt, expected = (decode(tokenizer, part) for part in (ids[:head], ids[head : head + length]))
        found.append(Question(place, prompt, tuple(ids[:head]), expected))
    return found


def _beginnings(encoded: EncodedRows) -> list[list[int]]:
    """Return the ids of the first example of each row."""
    _, first = np.unique(encoded.numbers, return_index=True)
    return [encoded[index].input_ids.tolist() for index in first.tolist()]
