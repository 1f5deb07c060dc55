"""Rows as token ids: one that is trained on, one that is asked. It needs no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from backend.errors import DataError
from backend.run.config import DataConfig

Fate = Literal["whole", "cut", "dropped", "too-long", "untrained"]
"""What becomes of a row: all of it is trained on, its beginning, or nothing; or training does not begin."""


def teaches(trained: Sequence[bool] | np.ndarray) -> bool:
    """Return whether a mask leaves a token to learn; the first is none, as nothing stands before it."""
    after = trained[1:]
    return bool(after.any()) if isinstance(after, np.ndarray) else any(after)


def fate_of(trained: Sequence[bool] | np.ndarray, data: DataConfig) -> Fate:
    """Return what ``data.max_length`` and ``data.truncation`` make of a row with this mask."""
    if not teaches(trained):
        return "untrained"
    if len(trained) <= data.max_length:
        return "whole"
    if data.truncation == "error":
        return "too-long"
    return "cut" if data.truncation == "cut" and teaches(trained[: data.max_length]) else "dropped"


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
        if not teaches(self.trained):
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
