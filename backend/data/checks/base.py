"""The words of the doctor's checks: what one is, what it looks at, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

from backend.data.cleaning import Leak, exact_duplicates, find_leaks
from backend.data.records import Rejected, Row
from backend.data.texts import answer_text
from backend.errors import TunesmithError

Level = Literal["block", "warn", "info"]
Need = Literal["validation", "encoder", "template"]

ENCODED_ROWS = 2_000
"""At most so many rows are looked at as tokens."""
LABEL_CHARACTERS = 60
MAX_LABELS = 100
MAX_NUMBERS = 10


class EncodedRow(Protocol):
    """A row as the model sees it: token ids, and for each whether it is a target of the loss."""

    @property
    def input_ids(self) -> Sequence[int]:
        """The token ids."""

    @property
    def trained(self) -> Sequence[bool]:
        """True if each token is trained; as long as ``input_ids``."""


@dataclass(frozen=True, slots=True)
class Example:
    """One place where a check found something, and what it found there."""

    place: str
    detail: str


def given_answer(row: Row) -> str:
    """The answer of a row as given; '' for rows of plain text."""
    return answer_text(row) if row.text is None else ""


@dataclass(frozen=True)
class Scan:
    """All that the checks may look at. Facts about all rows are worked out once, when first asked for.

    Rows may be many: a check reads them one after the other and keeps numbers and hashes, no texts.

    ``encode`` turns a row into token ids and mask and ``decode`` ids into text; ``end_ids`` are the ids that end a
    turn, ``special_ids`` those of all special tokens, such as may end a tool call; ``max_length`` is in tokens;
    ``look`` says what the chat template does to a row, by the slug of the check. Without a model they are None or
    empty, and the checks that need them do not run.
    """

    rows: Sequence[Row]
    validation: Sequence[Row] = ()
    rejected: Sequence[Rejected] = ()
    encode: Callable[[Row], EncodedRow] | None = None
    look: Callable[[Row], Mapping[str, str]] | None = None
    end_ids: frozenset[int] = frozenset()
    max_length: int | None = None
    epochs: float = 1.0
    special_ids: frozenset[int] = frozenset()
    decode: Callable[[Sequence[int]], str] | None = None

    @cached_property
    def encoded(self) -> list[tuple[Row, EncodedRow | TunesmithError]]:
        """An even sample of the rows with their tokens, or the reason why there are none; empty without a model."""
        return [(row, _tokens(self.encode, row)) for row in looked_at(self.rows)] if self.encode else []

    @cached_property
    def template_faults(self) -> list[Mapping[str, str]]:
        """What the chat template does to each row, by the slug of the check."""
        return [self.look(row) for row in self.rows] if self.look else [{} for _ in self.rows]

    @cached_property
    def labels(self) -> list[str]:
        """The answer of each row when the rows look like a labelling task, else an empty list.

        They do when every answer is one short line and there are few distinct ones for the number of rows.
        """
        labels: list[str] = []
        distinct: dict[str, str] = {}
        for row in self.rows:
            answer = given_answer(row)
            labels.append(distinct.setdefault(answer, answer))
            short = len(answer) <= LABEL_CHARACTERS and "\n" not in answer
            if row.chosen or not short or len(distinct) > min(MAX_LABELS, len(self.rows) // 3):
                return []
        numbers = sum(each.strip().isdecimal() for each in distinct)
        counts = numbers > MAX_NUMBERS and 2 * numbers > len(distinct)  # sums and amounts are no classes
        return labels if len(distinct) > 1 and not counts else []

    @cached_property
    def duplicates(self) -> dict[int, int]:
        """For each row that says the same as an earlier one, the number of that one."""
        return exact_duplicates(self.rows)

    @cached_property
    def leaks(self) -> list[Leak]:
        """The rows that stand among the held-out rows."""
        return find_leaks(self.rows, self.validation)


def looked_at(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows whose tokens are looked at: an even sample of a large set."""
    step = -(-len(rows) // ENCODED_ROWS)
    return rows[:: max(1, step)]


def _tokens(encode: Callable[[Row], EncodedRow], row: Row) -> EncodedRow | TunesmithError:
    try:
        return encode(row)
    except TunesmithError as error:
        return error


@dataclass(frozen=True)
class Check:
    """One question to the data. Exactly one of ``by_row`` and ``over_all`` is set.

    ``by_row`` says what is wrong with one row, or None; ``over_all`` yields an example for each row concerned.
    ``escalate`` raises the level once more than a share (0 to 1) of the rows is concerned. ``of_rows`` is False
    for findings about the set, which have no share. ``summary`` adds to the harm what the rows found say together.
    ``fix`` is among the fixes chosen by default where at most the share ``chosen_up_to`` of the rows is concerned; 0
    is for fixes that may take away what is meant.
    """

    number: int
    slug: str
    title: str
    level: Level
    harm: str
    by_row: Callable[[Row], str | None] | None = None
    over_all: Callable[[Scan], Iterable[Example]] | None = None
    escalate: tuple[float, Level] | None = None
    needs: Need | None = None
    fix: str | None = None
    of_rows: bool = field(default=True)
    summary: Callable[[Scan], str] | None = None
    chosen_up_to: float = 1.0
