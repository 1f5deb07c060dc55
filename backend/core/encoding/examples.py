"""Rows as token ids: one that is trained on, one that is asked. It needs no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.errors import DataError


@dataclass(frozen=True)
class Example:
    """One row as token ids: ``trained[i]`` says whether token i is something the model learns to say."""

    input_ids: np.ndarray
    trained: np.ndarray
    row: str

    def __post_init__(self) -> None:
        if len(self.input_ids) != len(self.trained):
            raise DataError(
                f"{self.row} has {len(self.input_ids)} tokens but a mask of {len(self.trained)}.",
                remedy="Report this row: ids and mask must have one length.",
                code="bad-mask",
            )
        if not self.trained[1:].any():
            raise DataError(
                f"{self.row} has no token to learn: its answer is empty or cut off.",
                remedy="Give the row an answer, or raise data.max_length.",
                code="nothing-trained",
            )


@dataclass(frozen=True)
class Question:
    """A held-out row to be answered: prompt ids, the prompt as text, and the answer a person would expect."""

    row: str
    prompt: str
    prompt_ids: tuple[int, ...]
    expected: str


def require_fit(examples: Sequence[Example], longest: int, vocabulary: int) -> None:
    """Pass rows of at most ``longest`` tokens with ids below ``vocabulary``.

    Raises DataError (``too-long``, ``unknown-token``) naming the first row that is not so.
    """
    for example in examples:
        if len(example.input_ids) > longest:
            raise DataError(
                f"{example.row} has {len(example.input_ids)} tokens; this model can look at {longest}.",
                remedy=f"Set data.max_length to {longest} or less and data.truncation to cut or drop.",
                code="too-long",
            )
        if (highest := int(example.input_ids.max())) >= vocabulary:
            raise DataError(
                f"{example.row} has the token id {highest}; this model knows those below {vocabulary} only.",
                remedy="Use the tokenizer that came with this model, also for rows that are token ids already.",
                code="unknown-token",
            )


def common_prefix(first: np.ndarray, second: np.ndarray) -> int:
    """Number of leading tokens that two id arrays share."""
    length = min(len(first), len(second))
    differs = np.flatnonzero(first[:length] != second[:length])
    return int(differs[0]) if len(differs) else length
