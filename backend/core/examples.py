"""Rows as token ids: one that is trained on, one that is asked. It needs no tensors.

Floor F1.
"""

from __future__ import annotations

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
