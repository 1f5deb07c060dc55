"""Columns that no part takes: what stands in them, so that nothing is left out of training without a word."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from backend.data.chat import MASKED_KEYS, TRAINED_KEYS, is_flag
from backend.data.exact_json import Spelled
from backend.data.families import CLASSES, RATINGS, REJECTED
from backend.data.locate import HELD_OUT, split_of
from backend.data.records import Record
from backend.data.shapes import FLAGS
from backend.utils.text_utils import counted, shorten

Holds = Literal["rating", "scores", "marks", "text", "labels"]

MAX_COLUMNS = 100
MAX_DISTINCT = 1_000
MAX_TEXT_CHARACTERS = 2_000
JUDGED_ROWS = 2_000
"""Rows by which a column is judged; of the others it is only counted how many are filled."""
COMPARED_ROWS = 200
"""Rows in which a column's words are looked for in those that are read."""
SENTENCE_WORDS = 3
SENTENCE_CHARACTERS = 300
LONG_CHARACTERS = 60
FEW_SHARE = 0.2
"""A column with fewer distinct values than this share of its rows holds labels and no texts."""

_RATING_WORDS = re.compile(
    r"(?:^|[^a-z])(?:kto|ratings?|rated|scores?|thumbs?|upvotes?|downvotes?|stars|rewards?|preferred|preference"
    r"|dispreferred|rejected|chosen|winner|loser|helpfulness|harmfulness|is_?good|is_?bad|is_?correct|liked|desirable)"
    r"(?=[^a-z]|$)"
)
_MAYBE_RATING = re.compile(
    r"(?:^|[^a-z])(?:verdict|helpful|(?:is_?)?valid|passed|approved|upvoted|downvoted|judge?ments?|hallucinat\w+|wrong"
    r"|bewertung|beurteilung|sterne|calificaci[oó]n|valoraci[oó]n|puntuaci[oó]n|[eé]valuation|acceptable)(?=[^a-z]|$)"
    r"|评分|评价|评级|得分|打分|是否正确"
)
"""Names of ratings that have other meanings too, so that the values must be those of ratings."""
WORSE = re.compile(
    r"(?:^|[^a-z])(?:incorrect|wrong|bad|worse|worst|negative|rejected|dispreferred|distractor)(?=[^a-z]|$)"
)
"""Names of answers that are not to be learned."""
_SCORED = re.compile(r"(?:^|[^a-z])(?:scores?|rewards?|upvotes?|downvotes?)(?=[^a-z]|$)")
"""Names of what may be measured of answers that are all good."""
_SCALES = (1.0, 5.0, 10.0, 100.0)
LOW_SHARE = 0.6
"""The share of its scale up to which a score says that an answer is not good."""
_NO_RATING = re.compile(r"(?:^|[^a-z])(?:language|lang|similarity|perplexity|distance)(?=[^a-z]|$)")
_JUDGED = re.compile(
    r"[-+]?\d+(?:\.\d+)?%?|true|false|yes|no|good|bad|up|down|(?:un)?desirable|(?:un)?acceptable|(?:dis)?like[ds]?"
    r"|positive|negative|correct|incorrect|right|wrong|chosen|rejected|accepted|high|low|poor|excellent",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
_VERDICTS = frozenset(word for word in FLAGS if len(word) > 1 or not word.isascii()) - {
    "true",
    "false",
    "yes",
    "no",
    "1.0",
    "0.0",
    "+1",
    "-1",
    "up",
    "down",
    "positive",
    "negative",
    "right",
}
"""Words that judge an answer, whatever the column is called."""
_SPLITS = frozenset({"split", "subset", "partition", "set", "fold", "usage"})
_MARKS = frozenset(
    {
        *TRAINED_KEYS,
        *MASKED_KEYS,
        *(
            "exclude",
            "excluded",
            "include",
            "included",
            "deleted",
            "is_deleted",
            "discard",
            "discarded",
            "keep",
        ),
        *(
            "skip",
            "skipped",
            "ignore",
            "ignored",
            "remove",
            "removed",
            "use_for_training",
            "is_train",
            "is_test",
        ),
    }
)
"""Names of flags that say whether a row is trained."""
_PRAISE = frozenset({"high", "excellent", *(word for word, good in FLAGS.items() if good)})
_ABOUT = frozenset(
    {
        *(
            "id",
            "ids",
            "idx",
            "index",
            "uuid",
            "guid",
            "hash",
            "sha256",
            "md5",
            "checksum",
            "url",
            "uri",
            "link",
        ),
        *(
            "source",
            "origin",
            "dataset",
            "subset",
            "config",
            "split",
            "file",
            "filename",
            "path",
            "domain",
            "site",
        ),
        *(
            "lang",
            "language",
            "locale",
            "author",
            "user",
            "username",
            "model",
            "license",
            "licence",
            "version",
        ),
        *("date", "time", "timestamp", "created", "updated", "year", "email"),
        *("tag", "tags", "keyword", "keywords", "categories", "topics", "meta", "metadata"),
    }
)
"""Last words of names that say where a row is from or what it is about, and not what it says."""
_CONTENT = re.compile(
    r"(?:^|[^a-z])(?:reasoning|thinking|thoughts?|rationale|explanation|cot|chain_of_thought|hint|options?|choices?"
    r"|ending\d?|instructions?)(?=[^a-z]|\d|$)"
)
_CODE = re.compile(r"\S*(?:://|[/\\_#@]|\d\S*[a-z]\S*\d)\S*", re.IGNORECASE)
"""One word that is an address, a path, an identifier or a hash."""
_UNRATED = ("messages", "alpaca", "prompt/completion")
"""Shapes whose answers are all taken for good ones."""
_ABOUT_THE_ROW = frozenset({"meta", "metadata", "extra", "extra_info", "info", "annotations", "features"})
"""Objects that describe a row and say nothing in it."""
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Letters of scripts that put no space between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


@dataclass(frozen=True, slots=True)
class UnusedColumn:
    """A column whose words are not trained: what it holds, in how many rows, and where it stands first.

    ``rating``: a judgement by which some answer may be bad, or an answer that is worse; ``scores``: a judgement by
    which all are good, or one inside an object about the row; ``marks``: which rows are not for training; ``text``:
    sentences; ``labels``: a few words that stand again and again. ``sample``: the first of them.
    """

    name: str
    holds: Holds
    rows: int
    place: str
    sample: str

    @property
    def said(self) -> str:
        """The column as part of a sentence: its name, how many rows, and where first."""
        return f"{shorten(repr(self.name), 60)} ({counted(self.rows, 'row')}, first at {self.place})"


@dataclass
class _Column:
    name: str
    place: str
    sample: str
    inside: bool = False
    rows: int = 0
    sentences: int = 0
    judged: int = 0
    lowest: float = math.inf
    highest: float = -math.inf
    verdicts: int = 0
    same: bool = True
    held_out: bool = False
    flags: int = 0
    worded: int = 0
    long: bool = False
    compared: int = 0
    repeated: int = 0
    distinct: set[int] = field(default_factory=set)

    def note(self, text: str, read: list[str] | None) -> None:
        self.rows += 1
        self.same = self.same and shorten(text, 60) == self.sample
        self.held_out = self.held_out or (
            self.name.strip().lower() in _SPLITS and split_of(text[:60], whole=True) in HELD_OUT
        )
        if len(text) <= SENTENCE_CHARACTERS and _NUMBER.fullmatch(text):
            self.lowest, self.highest = min(self.lowest, float(text)), max(self.highest, float(text))
        if self.rows > JUDGED_ROWS:
            return
        if len(self.distinct) < MAX_DISTINCT:
            self.distinct.add(hash(text))
        verdict = text.lower() in _VERDICTS
        self.verdicts += verdict
        self.flags += is_flag(text)
        self.judged += verdict or bool(_JUDGED.fullmatch(text))
        self.worded += is_worded(text)
        if read is not None:
            self.compared += 1
            self.repeated += text in "\n".join(read) or all(part in text for part in read)
        if not is_sentence(text):
            return
        self.sentences += 1
        self.long = self.long or len(text) >= LONG_CHARACTERS

    @property
    def looked_at(self) -> int:
        return min(self.rows, JUDGED_ROWS)

    @property
    def varies(self) -> bool:
        return len(self.distinct) >= max(2, FEW_SHARE * self.looked_at) or self.rows == 1

    @property
    def is_text(self) -> bool:
        """True if it says something that is not all among the words that are read."""
        named = self.name.strip().lower()
        said = 10 * self.sentences >= self.looked_at and (self.long or self.varies)
        said = said or (2 * self.worded >= self.looked_at and self.varies and not _is_about(named))
        said = said or bool(_CONTENT.search(named))
        return said and not (self.compared and 10 * self.repeated >= 9 * self.compared)

    def holds(self, shape: str, *, classified: bool = False) -> Holds | None:
        """Return what it holds that matters beside rows of this shape: ratings only where an answer could be bad.

        ``classified``: the answers are classes, beside which stand other spellings of them and how sure somebody was.
        """
        if classified and self.name.strip().lower() in CLASSES:
            return None
        if self.is_rating and shape in _UNRATED:
            return "scores" if classified or self.inside or not self.parts_answers else "rating"
        if self.inside:
            return None
        if self.is_mark:
            return "marks"
        if self.is_text:
            return "text"
        return "labels" if shape == "text" and (self.is_label or self.is_rating) else None

    @property
    def is_mark(self) -> bool:
        """True if it says of some rows, and not of others, that they are not for training."""
        flags = self.name.strip().lower() in _MARKS and 10 * self.flags >= 9 * self.looked_at
        return not self.same and (self.held_out or flags)

    @property
    def is_rating(self) -> bool:
        """True if it judges the answers beside it, by its name and by its values."""
        name = self.name.strip().lower()
        judged = 2 * self.judged >= self.looked_at
        if 10 * self.verdicts >= 9 * self.looked_at and not self.same:
            return True
        if name in CLASSES:
            return judged
        if _is_about(name):
            return False
        return names_rating(name) or self.is_worse or (judged and bool(_MAYBE_RATING.search(name)))

    @property
    def is_worse(self) -> bool:
        """True if it holds answers that are not to be learned."""
        name = self.name.strip().lower()
        return name in REJECTED or (bool(WORSE.search(name)) and 2 * self.judged < self.looked_at)

    @property
    def parts_answers(self) -> bool:
        """True if a rating may say of some answer that it is not good; high scores and one word of praise do not."""
        if self.is_worse:
            return True
        if self.same and self.sample.lower() in _PRAISE:
            return False
        if not _SCORED.search(self.name.strip().lower()) or self.highest < self.lowest:
            return True
        top = next((each for each in _SCALES if self.highest <= each), self.highest)
        return self.lowest <= LOW_SHARE * top

    @property
    def is_label(self) -> bool:
        """True if it holds a few words that stand again and again, and does not say where the row is from."""
        few = 1 < len(self.distinct) <= MAX_DISTINCT // 10
        return few and 2 * self.worded >= self.looked_at and not _is_about(self.name)


class UnusedColumns:
    """What stands in the columns that no part takes, gathered while records stream by.

    ``taken`` are the columns that are read.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = frozenset(taken)
        self._columns: dict[str, _Column] = {}
        self._seen = 0

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records as they are, and note what they hold besides."""
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
            if not (text := _words(value)):
                continue
            column = self._columns.get(name)
            if column is None:
                if len(self._columns) == MAX_COLUMNS:
                    continue
                column = self._columns[name] = _Column(
                    name, record.place, shorten(text, 60), inside=name not in others
                )
            if read is None and self._seen <= COMPARED_ROWS and self._taken:
                words = (_words(record.cells.get(each), None) for each in self._taken)
                read = [each for each in words if each] or [""]
            column.note(text, read if self._seen <= COMPARED_ROWS else None)

    def found(self, shape: str) -> tuple[UnusedColumn, ...]:
        """Return the columns that matter beside rows of this shape, in the file's order."""
        classified = shape == "prompt/completion" and any(
            name.strip().lower() in CLASSES for name in self._taken
        )
        found = ((each, each.holds(shape, classified=classified)) for each in self._columns.values())
        return tuple(
            UnusedColumn(each.name, holds, each.rows, each.place, each.sample)
            for each, holds in found
            if holds
        )


def texts_beside(records: Iterable[Record], taken: Iterable[str]) -> tuple[UnusedColumn, ...]:
    """Return the columns besides ``taken`` that hold sentences."""
    columns = UnusedColumns(taken)
    for record in records:
        columns.note(record)
    return tuple(each for each in columns.found("text") if each.holds == "text")


def is_sentence(text: str) -> bool:
    """Return whether a text says something: three words or more, and no date, number, address or code."""
    text = text[:SENTENCE_CHARACTERS]
    digits = sum(map(str.isdigit, text))
    if 4 * digits >= len(text):
        return False
    spoken = [word for word in text.split() if any(map(str.isalpha, word))]
    return len(spoken) >= SENTENCE_WORDS or len(_UNSPACED.findall(text)) > SENTENCE_WORDS


def names_rating(name: str) -> bool:
    """Return whether a name says that what stands under it judges an answer."""
    name = name.strip().lower()
    named = name in RATINGS or bool(_RATING_WORDS.search(name))
    return named and not _NO_RATING.search(name)


def _is_about(name: str) -> bool:
    """Return whether a column is called after where rows are from: ``prompt_id``, ``data_source``, ``model_name``."""
    words = re.split(r"[^a-z0-9]+", name.strip().lower().removesuffix("_at"))
    return words[-1] in _ABOUT or (words[-1] == "name" and words[0] in _ABOUT)


def is_worded(text: str) -> bool:
    """Return whether a text is made of words rather than of numbers, dates, addresses or identifiers."""
    text = text[:SENTENCE_CHARACTERS]
    return (
        2 * sum(map(str.isdigit, text)) < len(text)
        and not _CODE.fullmatch(text)
        and any(map(str.isalpha, text))
    )


def _cells(record: Record, names: Collection[str]) -> Iterator[tuple[str, Any]]:
    """The cells of a record under these names; of an object about the row only what is called like a rating."""
    for name, value in record.cells.items():
        if name not in names:
            continue
        if isinstance(value, Mapping) and name.strip().lower() in _ABOUT_THE_ROW:
            yield from ((f"{name}.{key}", each) for key, each in value.items() if names_rating(key))
        else:
            yield name, value


def _words(value: Any, limit: int | None = MAX_TEXT_CHARACTERS) -> str:
    """The text of a cell, that of lists and objects one after the other; "" where there is none."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value[:limit].strip()
    if isinstance(value, Mapping | list | tuple):
        inner = value.values() if isinstance(value, Mapping) else value
        texts = (_words(item, limit) for item in inner if not _is_number(item))
        return "\n".join(filter(None, texts))[:limit]
    return str(value).lower()


def _is_number(value: Any) -> bool:
    return isinstance(value, Spelled | int | float)
