"""The rows of a run: training rows and held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.data.load import Loaded
from backend.data.records import Rejected, Row
from backend.data.splits import group_text


@dataclass(frozen=True)
class Dataset:
    """The rows of a run, with what was refused, how the rows were read, and the SHA-256 of each source.

    ``warnings``: sentences about data that is not read and about a split that differs from the request. ``source``:
    the training rows as read, before oversampling and paraphrases. ``mix_source``: those that a
    share is mixed in of, as read.
    """

    train: Sequence[Row]
    validation: Sequence[Row]
    rejected: Sequence[Rejected]
    reading: str
    fingerprints: dict[str, str]
    source: Loaded
    warnings: tuple[str, ...] = ()
    mix_source: Loaded | None = None

    @property
    def mix(self) -> Sequence[Row]:
        """The rows that a share is mixed in of."""
        return self.mix_source.rows if self.mix_source else ()

    def trained_questions(self) -> list[str]:
        """Return the places of held-out rows whose prompt is also trained: a score on them proves nothing."""
        prompts = [(row.place, group_text(row)) for row in self.validation]
        trained = {text for _, text in prompts}.intersection(map(group_text, self.train))
        return [place for place, text in prompts if text in trained]
