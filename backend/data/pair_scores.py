"""Scores that a file has for both answers of a pair: they show pairs that are the wrong way round."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backend.data.column_words import NUMBER
from backend.data.records import Record

_SCORE = re.compile(r"score|rating|rated|reward|grade|upvotes|likes|quality|helpfulness", re.IGNORECASE)
"""Words in names of columns in which more is better."""
_SIDES = (("chosen", "rejected"), ("preferred", "non_preferred"), ("preferred", "dispreferred"))


@dataclass(frozen=True, slots=True)
class PairScores:
    """What the scores of a file's pairs say.

    ``columns``: the names of both. ``rows``: how many pairs have both scores; in ``lower`` the chosen answer has the
    lower one, first at ``place``; in ``equal`` they are equal.
    """

    columns: tuple[str, str]
    rows: int
    lower: int
    equal: int
    place: str

    @property
    def swapped(self) -> bool:
        """True if chosen and rejected are likely the wrong way round in the whole file."""
        return 2 * self.lower > self.rows


class ScoredPairs:
    """Compares the scores of both answers while records stream by."""

    def __init__(self) -> None:
        self._columns: tuple[str, str] | None = None
        self._rows = self._lower = self._equal = 0
        self._place = ""

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records unchanged and note each."""
        for record in records:
            self.note(record.cells, record.place)
            yield record

    def note(self, cells: Mapping[str, Any], place: str) -> None:
        """Note the scores of one record, if it has both."""
        self._columns = self._columns or _scores(cells)
        if self._columns is None:
            return
        chosen, rejected = (_number(cells.get(name)) for name in self._columns)
        if chosen is None or rejected is None:
            return
        self._rows += 1
        self._equal += chosen == rejected
        self._lower += chosen < rejected
        if chosen < rejected:
            self._place = self._place or place

    @property
    def found(self) -> PairScores | None:
        """What was noted; None if no pair has both scores."""
        if self._columns is None or not self._rows:
            return None
        return PairScores(self._columns, self._rows, self._lower, self._equal, self._place)


def _scores(cells: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the columns of the scores of the chosen and the rejected answer, such as ``score_chosen``; else None."""
    for name in cells:
        for better, worse in _SIDES:
            other = name.replace(better, worse)
            if other != name and other in cells and _SCORE.search(name):
                return name, other
    return None


def _number(value: Any) -> float | None:
    text = str(value).strip()
    return float(text) if NUMBER.fullmatch(text) else None
