"""Cut a long text into consecutive pieces, so that each of its tokens is trained exactly once.

A piece has at most ``limit`` tokens and begins with the last token of the piece before it: the first token of an
example is never a target of the loss, as nothing predicts it, so without this overlap of one each cut would lose a
token. Only the first token of the text stays untrained. NumPy only.
"""

from __future__ import annotations

import numpy as np


def is_text(trained: np.ndarray) -> bool:
    """Return True if every token is marked as trained, as in plain text; answers follow an untrained prompt.

    Only such a row is cut into pieces: in a conversation a later piece would have lost its question.
    """
    return bool(trained.all())


def piece_count(length: int, limit: int) -> int:
    """Return into how many pieces of at most ``limit`` (2 or more) tokens a text of ``length`` tokens is cut."""
    return max(1, -(-(length - 1) // (limit - 1)))


def piece_starts(pieces: np.ndarray, limit: int) -> np.ndarray:
    """Return where each piece begins in its row, int64 [sum of ``pieces``]; ``pieces`` int [rows] counts them."""
    first = np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts: np.ndarray = (np.arange(len(first), dtype=np.int64) - first) * (limit - 1)
    return starts


def piece_number(start: int, limit: int) -> int:
    """Return the number, from 1, of the piece that begins at token ``start`` of its row."""
    return start // (limit - 1) + 1
