"""Find columns that no part of a row takes but that matter: ratings, marks, texts, labels.

They are reported, so that nothing is left out of training in silence.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from backend.data.chat import is_flag
from backend.data.column_words import (
    CONTENT,
    NUMBER,
    SCORED,
    SENTENCE_CHARACTERS,
    TEMPLATE_SETTINGS,
    WORSE,
    is_judgement,
    is_praise,
    is_sentence,
    is_verdict,
    is_worded,
    lowered,
    may_name_rating,
    names_mark,
    names_metadata,
    names_metadata_object,
    names_rating,
    names_split,
    names_worse,
)
from backend.data.exact_json import Spelled
from backend.data.families import CLASSES
from backend.data.locate import HELD_OUT, split_of
from backend.data.records import Record
from backend.utils.text_utils import counted, shorten

Holds = Literal["rating", "scores", "marks", "text", "labels"]

MAX_COLUMNS = 100
MAX_DISTINCT = 1_000
MAX_TEXT_CHARACTERS = 2_000
JUDGED_ROWS = 2_000
"""A column is judged by this many rows; in the others only the filled ones are counted."""
COMPARED_ROWS = 200
"""Rows in which a column's text is looked for among the text of the columns that are read."""
LONG_CHARACTERS = 60
FEW_SHARE = 0.2
"""A column with fewer distinct values than this share of its rows holds labels rather than texts."""
LOW_SHARE = 0.6
"""A score up to this share of its scale says that an answer is not good."""

_SCALES = (1.0, 5.0, 10.0, 100.0)
_UNRATED = ("messages", "alpaca", "prompt/completion")
"""Shapes of which every answer is trained as a good one."""


@dataclass(frozen=True, slots=True)
class UnusedColumn:
    """A column that is not trained on: what it holds, in how many rows, the place and text of the first.

    ``holds`` is ``rating`` (some answers may be bad, or the column holds bad answers), ``scores`` (ratings by which
    all answers are good, or inside a metadata object), ``marks`` (rows not for training), ``text`` (sentences) or
    ``labels`` (a few values that recur).
    """

    name: str
    holds: Holds
    rows: int
    place: str
    sample: str

    @property
    def description(self) -> str:
        """The column as part of a sentence: its name, how many rows, and where first."""
        return f"{shorten(repr(self.name), 60)} ({counted(self.rows, 'row')}, first at {self.place})"


@dataclass
class _Column:
    """Counts over the rows in which one column is filled.

    ``nested``: a key inside a metadata object. ``sentences``, ``judgements``, ``verdicts``, ``flags`` and ``worded``
    count the values that pass the test of that name, among the first ``JUDGED_ROWS``; ``repeated`` counts those whose
    text stands in the columns that are read, among ``compared`` ones.
    """

    name: str
    place: str
    sample: str
    nested: bool = False
    rows: int = 0
    sentences: int = 0
    judgements: int = 0
    lowest: float = math.inf
    highest: float = -math.inf
    verdicts: int = 0
    constant: bool = True
    held_out: bool = False
    flags: int = 0
    worded: int = 0
    long: bool = False
    compared: int = 0
    repeated: int = 0
    distinct: set[int] = field(default_factory=set)

    def note(self, text: str, read: list[str] | None) -> None:
        """Count one value; ``read`` are the texts of the same row that are read, None where not compared."""
        self.rows += 1
        self.constant = self.constant and shorten(text, 60) == self.sample
        self.held_out = self.held_out or (
            names_split(self.name) and split_of(text[:60], whole=True) in HELD_OUT
        )
        if len(text) <= SENTENCE_CHARACTERS and NUMBER.fullmatch(text):
            self.lowest, self.highest = min(self.lowest, float(text)), max(self.highest, float(text))
        if self.rows > JUDGED_ROWS:
            return
        if len(self.distinct) < MAX_DISTINCT:
            self.distinct.add(hash(text))
        self.verdicts += is_verdict(text)
        self.flags += is_flag(text)
        self.judgements += is_judgement(text)
        self.worded += is_worded(text)
        if read is not None:
            self.compared += 1
            self.repeated += text in "\n".join(read) or all(part in text for part in read)
        if is_sentence(text):
            self.sentences += 1
            self.long = self.long or len(text) >= LONG_CHARACTERS

    @property
    def judged_rows(self) -> int:
        return min(self.rows, JUDGED_ROWS)

    @property
    def varies(self) -> bool:
        return len(self.distinct) >= max(2, FEW_SHARE * self.judged_rows) or self.rows == 1

    @property
    def is_text(self) -> bool:
        """True if it holds text that is not in the columns that are read anyway."""
        by_sentences = 10 * self.sentences >= self.judged_rows and (self.long or self.varies)
        by_words = 2 * self.worded >= self.judged_rows and self.varies and not names_metadata(self.name)
        named = self.name == TEMPLATE_SETTINGS or bool(CONTENT.search(lowered(self.name)))
        text = by_sentences or by_words or named
        return text and not (self.compared and 10 * self.repeated >= 9 * self.compared)

    def holds(self, shape: str, *, classified: bool = False) -> Holds | None:
        """Return what it holds that matters beside rows of this shape; None for nothing.

        ``classified``: the answers are class names. Other spellings of the class then do not count, and ratings are
        confidences.
        """
        if classified and lowered(self.name) in CLASSES:
            return None
        if self.is_rating and shape in _UNRATED:
            return "scores" if classified or self.nested or not self.has_bad_answers else "rating"
        if self.nested:
            return None
        if self.is_mark:
            return "marks"
        if self.is_text:
            return "text"
        return "labels" if shape == "text" and (self.is_label or self.is_rating) else None

    @property
    def is_mark(self) -> bool:
        """True if it marks some rows, and not others, as not for training."""
        flags = names_mark(self.name) and 10 * self.flags >= 9 * self.judged_rows
        return not self.constant and (self.held_out or flags)

    @property
    def is_rating(self) -> bool:
        """True if it judges the answers beside it, by its name and by its values."""
        judged = 2 * self.judgements >= self.judged_rows
        if 10 * self.verdicts >= 9 * self.judged_rows and not self.constant:
            return True
        if lowered(self.name) in CLASSES:
            return judged
        if names_metadata(self.name):
            return False
        return names_rating(self.name) or self.is_worse or (judged and may_name_rating(self.name))

    @property
    def is_worse(self) -> bool:
        """True if it holds bad answers."""
        judged = 2 * self.judgements >= self.judged_rows
        return names_worse(self.name) or (bool(WORSE.search(lowered(self.name))) and not judged)

    @property
    def has_bad_answers(self) -> bool:
        """True if by this rating some answer may be bad; high scores and one word of praise show none."""
        if self.is_worse:
            return True
        if self.constant and is_praise(self.sample):
            return False
        if not SCORED.search(lowered(self.name)) or self.highest < self.lowest:
            return True
        top = next((each for each in _SCALES if self.highest <= each), self.highest)
        return self.lowest <= LOW_SHARE * top

    @property
    def is_label(self) -> bool:
        """True if it holds a few words that recur and is no metadata."""
        few = 1 < len(self.distinct) <= MAX_DISTINCT // 10
        return few and 2 * self.worded >= self.judged_rows and not names_metadata(self.name)


class UnusedColumns:
    """Collects what stands in the columns other than ``taken``, the ones that are read, while records stream by."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = frozenset(taken)
        self._columns: dict[str, _Column] = {}
        self._seen = 0

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records unchanged and note each."""
        for record in records:
            self.note(record)
            yield record

    def note(self, record: Record) -> None:
        """Note one record."""
        others = record.cells.keys() - self._taken
        if not others:
            return
        read: list[str] | None = None
        self._seen += 1
        for name, value in _cells(record, others):
            text = _cell_text(value) or (str(value) if value and name == TEMPLATE_SETTINGS else "")
            if not text:
                continue
            column = self._columns.get(name)
            if column is None:
                if len(self._columns) == MAX_COLUMNS:
                    continue
                column = self._columns[name] = _Column(
                    name, record.place, shorten(text, 60), nested=name not in others
                )
            if read is None and self._seen <= COMPARED_ROWS and self._taken:
                texts = (_cell_text(record.cells.get(each), None) for each in self._taken)
                read = [each for each in texts if each] or [""]
            column.note(text, read if self._seen <= COMPARED_ROWS else None)

    def found(self, shape: str) -> tuple[UnusedColumn, ...]:
        """Return the columns that matter beside rows of this shape, in the file's order."""
        classified = shape == "prompt/completion" and any(lowered(name) in CLASSES for name in self._taken)
        found = ((each, each.holds(shape, classified=classified)) for each in self._columns.values())
        return tuple(
            UnusedColumn(each.name, holds, each.rows, each.place, each.sample)
            for each, holds in found
            if holds
        )


def text_columns(records: Iterable[Record], taken: Iterable[str]) -> tuple[UnusedColumn, ...]:
    """Return the columns other than ``taken`` that hold sentences."""
    columns = UnusedColumns(taken)
    for record in records:
        columns.note(record)
    return tuple(each for each in columns.found("text") if each.holds == "text")


def _cells(record: Record, names: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield the cells under these names; of a metadata object only the keys that are named like ratings."""
    for name, value in record.cells.items():
        if name not in names:
            continue
        if isinstance(value, Mapping) and names_metadata_object(name):
            yield from ((f"{name}.{key}", each) for key, each in value.items() if names_rating(key))
        else:
            yield name, value


def _cell_text(value: Any, limit: int | None = MAX_TEXT_CHARACTERS) -> str:
    """Return the text of a cell, of lists and objects one after the other without their numbers; "" for none."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value[:limit].strip()
    if isinstance(value, Mapping | list | tuple):
        inner = value.values() if isinstance(value, Mapping) else value
        texts = (_cell_text(item, limit) for item in inner if not _is_number(item))
        return "\n".join(filter(None, texts))[:limit]
    return str(value).lower()


def _is_number(value: Any) -> bool:
    return isinstance(value, Spelled | int | float)
