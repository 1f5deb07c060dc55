"""The types of the doctor's checks: a check, the data it examines, and an example of what it finds."""

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
"""The number of rows that are tokenised at most."""
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
    """A place where a check found something, and what."""

    place: str
    detail: str


def given_answer(row: Row) -> str:
    """Return the answer of a row as given; '' for rows of plain text and for answers judged bad."""
    return answer_text(row) if row.text is None and row.label is not False else ""


@dataclass(frozen=True)
class Scan:
    """The data that checks examine. Facts about all rows are computed once, when first used.

    There may be very many rows: a check reads them one after the other and keeps numbers and hashes, not texts.

    ``encode`` turns a row into token ids and mask and ``decode`` ids into text; ``end_ids`` are the ids that end a
    turn, ``special_ids`` those of all special tokens, since one may end a tool call; ``max_length`` is in tokens;
    ``look`` returns the faults of the chat template with a row, by the slug of the check. Without a model they are
    None or empty, and the checks that need them do not run. ``method`` is the ``objective.method`` of the run, None
    without one.
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
    method: str | None = None

    @cached_property
    def encoded(self) -> list[tuple[Row, EncodedRow | TunesmithError]]:
        """An even sample of the rows, each with its tokens or the error of encoding; empty without a model.

        A pair is there twice, with the chosen and with the rejected reply.
        """
        if self.encode is None:
            return []
        return [
            (side, _tokens(self.encode, side)) for row in sampled_rows(self.rows) for side in row.answers()
        ]

    @cached_property
    def template_faults(self) -> list[Mapping[str, str]]:
        """The faults of the chat template with each row, by the slug of the check."""
        return [self.look(row.answers()[0]) for row in self.rows] if self.look else [{} for _ in self.rows]

    @cached_property
    def labels(self) -> list[str]:
        """The answer of each row if the rows look like a classification task, else an empty list.

        They do if every answer is one short line and there are few distinct ones for the number of rows.
        """
        labels: list[str] = []
        distinct: dict[str, str] = {}
        for row in self.rows:
            answer = given_answer(row)
            labels.append(distinct.setdefault(answer, answer))
            short = len(answer) <= LABEL_CHARACTERS and "\n" not in answer
            if (
                row.chosen
                or row.label is not None
                or not short
                or len(distinct) > min(MAX_LABELS, len(self.rows) // 3)
            ):
                return []
        numbers = sum(each.strip().isdecimal() for each in distinct)
        counts = numbers > MAX_NUMBERS and 2 * numbers > len(distinct)  # results of sums are not classes
        return labels if len(distinct) > 1 and not counts else []

    @cached_property
    def duplicates(self) -> dict[int, int]:
        """``{later: earlier}``, by numbers, for each row that equals an earlier one."""
        return exact_duplicates(self.rows)

    @cached_property
    def leaks(self) -> list[Leak]:
        """The rows that held-out rows repeat."""
        return find_leaks(self.rows, self.validation)


def sampled_rows(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows to tokenise: all, or an even sample of a large set."""
    step = -(-len(rows) // ENCODED_ROWS)
    return rows[:: max(1, step)]


def _tokens(encode: Callable[[Row], EncodedRow], row: Row) -> EncodedRow | TunesmithError:
    try:
        return encode(row)
    except TunesmithError as error:
        return error


@dataclass(frozen=True)
class Check:
    """One check of the data. Exactly one of ``by_row`` and ``over_all`` is set.

    ``by_row`` returns what is wrong with one row, or None; ``over_all`` yields an example for each affected row.
    ``escalate`` raises the level if more than a share (0 to 1) of the rows is affected. ``of_rows`` is False for
    findings about the whole set, which have no share. ``summary`` returns sentences about all affected rows, added to
    the harm. ``fix`` is applied by default if at most the share ``chosen_up_to`` of rows is affected; 0 is for fixes
    that may remove what is meant.
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
