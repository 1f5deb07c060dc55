"""An answer that a model gave while it trains."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Completion:
    """A sampled answer: its token ids, the end token among them, and its text without.

    ``is_truncated``: it reached the most tokens that an answer may have, or that fit the model.
    """

    ids: tuple[int, ...]
    text: str
    is_truncated: bool
