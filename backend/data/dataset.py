"""The rows of a run, training and held-out side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.data.load import Loaded
from backend.data.records import Rejected, Row
from backend.data.splits import group_text


@dataclass(frozen=True)
class Dataset:
    """The rows of a run: ``train`` and ``validation``, what was refused, how it was read, and file hashes.

    ``warnings``: what stands in the rows and is not read, and what is other than asked in the split, a sentence each.
    ``source``: the training rows as they were read, before repeats and paraphrases are added.
    """

    train: Sequence[Row]
    validation: Sequence[Row]
    rejected: Sequence[Rejected]
    reading: str
    fingerprints: dict[str, str]
    source: Loaded
    warnings: tuple[str, ...] = ()

    def trained_questions(self) -> list[str]:
        """The places of held-out rows whose prompt a training row has too: a score on them proves nothing."""
        asked = [(row.place, group_text(row)) for row in self.validation]
        trained = {text for _, text in asked}.intersection(map(group_text, self.train))
        return [place for place, text in asked if text in trained]
