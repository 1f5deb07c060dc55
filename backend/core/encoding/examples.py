"""A row as token ids, to train on (Example) or to answer (Question). NumPy only; torch is not imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from backend.errors import DataError
from backend.run.config import DataConfig

RowUse = Literal["whole", "cut", "dropped", "too-long", "untrained"]
"""How much of a row is trained on: all, its beginning, or nothing; for the last two, training refuses to start."""


def has_targets(trained: Sequence[bool] | np.ndarray) -> bool:
    """Return True if a mask has a target of the loss; the first token is never one, as nothing predicts it."""
    after = trained[1:]
    return bool(after.any()) if isinstance(after, np.ndarray) else any(after)


def row_use(trained: Sequence[bool] | np.ndarray, data: DataConfig) -> RowUse:
    """Apply ``data.max_length`` and ``data.truncation`` to a row with the mask ``trained``."""
    if not has_targets(trained):
        return "untrained"
    if len(trained) <= data.max_length:
        return "whole"
    if data.truncation == "error":
        return "too-long"
    return "cut" if data.truncation == "cut" and has_targets(trained[: data.max_length]) else "dropped"


@dataclass(frozen=True)
class Example:
    """One row as token ids; ``trained[i]`` is True if token i is a target of the loss. ``row`` is its place.

    ``label``: True for the better of two answers or a good one, False for the other; None where answers are not
    compared or judged. ``weight``: how much the log-probability of its trained tokens should grow, for an answer that
    was rewarded.
    """

    input_ids: np.ndarray
    trained: np.ndarray
    row: str
    label: bool | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if len(self.input_ids) != len(self.trained):
            raise DataError(
                f"{self.row} has {len(self.input_ids)} tokens but a mask of {len(self.trained)}.",
                remedy="Report this row: ids and mask must have one length.",
                code="bad-mask",
            )
        if not has_targets(self.trained):
            raise DataError(
                f"{self.row} has no token to learn: its answer is empty or cut off.",
                remedy="Give the row an answer, or raise data.max_length.",
                code="nothing-trained",
            )


@dataclass(frozen=True)
class Question:
    """A held-out row to answer: its place, the prompt as text and as ids, the expected answer."""

    row: str
    prompt: str
    prompt_ids: tuple[int, ...]
    expected: str


def require_fit(examples: Sequence[Example], longest: int, vocabulary: int) -> None:
    """Check that rows have at most ``longest`` tokens, and ids below ``vocabulary``.

    Raises DataError ``too-long`` or ``unknown-token``, naming the first row that fails.
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
    """Return the number of leading tokens that two id arrays share."""
    length = min(len(first), len(second))
    differs = np.flatnonzero(first[:length] != second[:length])
    return int(differs[0]) if len(differs) else length
