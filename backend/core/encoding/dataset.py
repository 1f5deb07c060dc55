"""The rows of a run as examples: tokenised once, cached on disk if many, and if very many while training runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import overload

import numpy as np
from transformers import PreTrainedTokenizerBase

from backend.core.encoding.examples import Example, has_targets, require_fit, row_use
from backend.core.encoding.pieces import is_text, piece_count, piece_number, piece_starts
from backend.core.encoding.row import encode_each, wrong_kind
from backend.core.encoding.token_cache import Tokens, TokenTable, key_of, load_cached, write_through
from backend.data.records import Row
from backend.data.store import rows_at, spill_to_disk
from backend.errors import DataError
from backend.run.config import DataConfig
from backend.run.methods import OBJECTIVES

BLOCK_ROWS = 2_000
"""Rows tokenised per block. Smaller data sets are not cached: looking them up takes as long as tokenising them."""
_AROUND = 64
"""Upper estimate of the tokens that a chat template adds around a message."""
_NAMED = 3
LARGE_ROWS = 10_000
"""From this many rows on, training can start before all are tokenised."""


def encode(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    data: DataConfig,
    *,
    method: str = "sft",
    all_now: bool = True,
) -> EncodedRows:
    """Tokenise ``rows`` for the objective ``method``: ids with a mask on trained tokens, in order.

    A pair of answers becomes two examples with one place, the better answer first. Where ``method`` cuts texts, one
    longer than ``data.max_length`` becomes several examples, see ``pieces``, whatever ``data.truncation`` says.
    With ``all_now`` False, only the first block of a large data set is tokenised here; the caller goes on with
    ``EncodedRows.tokenise_next``. All rows are still tokenised if the number of examples, and so of steps, depends on
    their lengths, or if a row may be too long, since that error must come before training.
    Raises DataError (too-long, nothing-trained, template-refused, wrong-rows, no-rows) naming the row.
    """
    facts = OBJECTIVES[method]
    given, all_now = len(rows), all_now or facts.is_preference or facts.cuts_texts
    next(
        _learnable(rows[:1], method), None
    )  # the others as they are tokenised, which the token cache may spare
    if facts.is_preference:
        rows = spill_to_disk(answer for row in _learnable(rows, method) for answer in row.answers())
    encoded = EncodedRows(rows, tokenizer, data, method)
    can_wait = len(rows) >= LARGE_ROWS and data.truncation == "error"
    if all_now or not can_wait or any(_may_be_long(row, data.max_length) for row in rows):
        encoded.tokenise_next(to_the_end=True)
    else:
        encoded.tokenise_next()
    if not len(encoded):
        raise DataError(
            f"None of the {given} rows is left to train on.",
            remedy="Raise data.max_length or give more rows.",
            code="no-rows",
        )
    return encoded


def _learnable(rows: Iterable[Row], method: str) -> Iterator[Row]:
    """Yield ``rows``. Raises DataError ``wrong-rows`` at the first of a kind that ``method`` does not learn from."""
    kinds = OBJECTIVES[method].rows
    for row in rows:
        if row.kind not in kinds:
            raise wrong_kind(row, method)
        yield row


class EncodedRows(Sequence[Example]):
    """A sequence of examples; each is built on access, and a row not yet tokenised is tokenised on access.

    ``group``: so many consecutive examples make one row of the data, 2 where ``method`` compares answers in pairs;
    they are kept or dropped together.
    ``numbers``: for each example, the index of its row among those given; several may be pieces of one text.
    ``cut`` and ``dropped``: places of rows that were too long. ``is_complete``: all rows are tokenised. ``tokens``
    and ``trained_tokens`` (targets of the loss) count the rows tokenised so far.
    """

    def __init__(
        self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, data: DataConfig, method: str = "sft"
    ) -> None:
        self.group = 2 if OBJECTIVES[method].is_pairwise else 1
        self._method, self._cuts_texts = method, OBJECTIVES[method].cuts_texts
        self.numbers = np.arange(len(rows))
        self._starts = np.zeros(len(rows), np.int64)  # of each example within the tokens of its row
        self._long: list[tuple[str, int, bool]] = []
        self.cut: list[str] = []
        self.dropped: list[str] = []
        self.tokens = self.trained_tokens = 0
        self.is_complete = False
        self._rows, self._tokenizer, self._data = rows, tokenizer, data
        self._key = key_of(rows, tokenizer) if len(rows) >= BLOCK_ROWS else None
        self._table = load_cached(self._key) if self._key else None
        self._tables = self._blocks()
        self._kept: list[np.ndarray] = []
        self._kept_starts: list[np.ndarray] = []
        self._encoded_rows = self._longest = self._highest = 0
        self._limits: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def row_count(self) -> int:
        """The number of rows of the data that are kept: of pairs, where answers are compared in pairs."""
        return len(self) // self.group

    @property
    def documents(self) -> int:
        """The number of rows of the data that are kept: a text in pieces counts once, and so does a pair."""
        return len(np.unique(self.numbers)) // self.group

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        number = int(self.numbers[index])
        return self._example(number, self._rows[number], int(self._starts[index]))

    def __iter__(self) -> Iterator[Example]:
        pieces = itertools.groupby(
            zip(self.numbers.tolist(), self._starts.tolist(), strict=True), key=itemgetter(0)
        )
        for row, (number, starts) in zip(rows_at(self._rows, np.unique(self.numbers)), pieces, strict=True):
            yield from (self._example(number, row, start) for _, start in starts)

    def tokenise_next(self, *, to_the_end: bool = False) -> bool:
        """Tokenise the next block of rows, or all that are left; return True if there may be more.

        Raises what ``encode`` raises, one error for all rows that are too long.
        """
        while (more := self._next()) and to_the_end:
            pass
        if self._long:
            raise _too_long(self._long, self._encoded_rows, self._data.max_length)
        return more

    def _next(self) -> bool:
        if self.is_complete:
            return False
        table = next(self._tables, None)
        if table is not None:
            self._add_block(table)
            return True
        self.is_complete = True
        self.numbers = np.concatenate([self.numbers[:0], *self._kept])
        self._starts = np.concatenate([self._starts[:0], *self._kept_starts])
        if self._key and self._table is None:
            self._table = load_cached(self._key)
        return False

    def require_fit(self, longest: int, vocabulary: int) -> None:
        """Apply ``examples.require_fit`` to the rows tokenised so far, and to all others when they are."""
        self._limits = (longest, vocabulary)
        if self._longest > longest or self._highest >= vocabulary:
            require_fit(self, longest, vocabulary)

    def _blocks(self) -> Iterator[TokenTable]:
        """Yield all rows as tables of at most ``BLOCK_ROWS``, from the cache, or tokenised now and cached if many."""
        if self._table is not None:
            starts = range(0, len(self._rows), BLOCK_ROWS)
            return iter([self._table[start : start + BLOCK_ROWS] for start in starts])
        rows = self._rows if OBJECTIVES[self._method].is_preference else _learnable(self._rows, self._method)
        encoded = encode_each(rows, self._tokenizer)
        blocks = map(TokenTable.of, iter(lambda: list(itertools.islice(encoded, BLOCK_ROWS)), []))
        return write_through(self._key, blocks) if self._key else blocks

    def _add_block(self, table: TokenTable) -> None:
        """Count the tokens of the next block, decide which rows to keep, and check the limits of ``require_fit``."""
        limit, begins = self._data.max_length, table.ends[:-1] - table.ends[0]
        lengths = np.diff(table.ends)
        trained_before = np.cumsum(np.append(False, table.all_trained), dtype=np.int64)
        examples = np.ones(len(table), np.int64)
        for index in np.flatnonzero(lengths > limit).tolist():
            if self._cuts_texts and is_text(table[index][1]):
                examples[index] = piece_count(int(lengths[index]), limit)
            else:
                examples[index] = self._truncate(self._rows[self._encoded_rows + index], *table[index])
        examples *= (examples > 0).reshape(-1, self.group).all(1).repeat(self.group)
        lengths = np.where(examples > 1, lengths, np.minimum(lengths, limit))
        self.tokens += int((lengths + examples - 1)[examples > 0].sum())  # neighbouring pieces share a token
        # targets from the second token of a row on, since nothing predicts the first
        targets = trained_before[begins + lengths] - trained_before[begins + 1]
        self.trained_tokens += int(targets[examples > 0].sum())
        self._kept.append(self._encoded_rows + np.repeat(np.arange(len(table)), examples))
        self._kept_starts.append(piece_starts(examples, limit))
        lengths = np.minimum(lengths, limit)
        longest, highest = int(lengths.max()), int(table.all_ids.max())
        self._longest, self._highest = max(self._longest, longest), max(self._highest, highest)
        if not self._key:
            self._table = table
        first, self._encoded_rows = self._encoded_rows, self._encoded_rows + len(table)
        if self._limits and (longest > self._limits[0] or highest >= self._limits[1]):
            require_fit(self[first : self._encoded_rows], *self._limits)

    def _truncate(self, row: Row, ids: np.ndarray, trained: np.ndarray) -> bool:
        """Apply ``data.truncation`` to an over-long row and record its place; return True if the row is kept."""
        use = row_use(trained, self._data)
        if use == "too-long":
            self._long.append((row.place, len(ids), has_targets(trained[: self._data.max_length])))
            return True
        (self.cut if use == "cut" else self.dropped).append(row.place)
        return use == "cut"

    def _example(self, number: int, row: Row, start: int) -> Example:
        limit = self._data.max_length
        ids, trained = self._encode_now(row) if self._table is None else self._table[number]
        stop, place = start + limit, row.place
        if self._cuts_texts and len(ids) > limit and is_text(trained):
            place += f" (piece {piece_number(start, limit)})"
        example = Example(ids[start:stop], trained[start:stop], place, row.label)
        if self._table is None and self._limits:
            require_fit([example], *self._limits)
        return example

    def _encode_now(self, row: Row) -> Tokens:
        ((ids, trained),) = TokenTable.of(list(encode_each([row], self._tokenizer)))
        if len(ids) > self._data.max_length and self._data.truncation == "error":
            raise _too_long([(row.place, len(ids), True)], 1, self._data.max_length)
        return ids, trained


def _may_be_long(row: Row, limit: int) -> bool:
    """True if a row may have more than ``limit`` tokens, judged by its bytes: a token has one byte at least."""
    texts = [row.text or "", row.tools or "", *(str(message) for message in row.messages)]
    texts += [text for text, _ in row.segments]
    size = sum(len(text.encode("utf-8", "surrogatepass")) + _AROUND for text in texts)
    return max(size, len(row.input_ids)) > limit


def _too_long(long: Sequence[tuple[str, int, bool]], rows: int, limit: int) -> DataError:
    """Return the error that names the over-long rows, the longest first, and how many rows each remedy keeps."""
    places = ", ".join(place for place, _, _ in sorted(long, key=lambda each: -each[1])[:_NAMED])
    longest, targets = max(length for _, length, _ in long), sum(has_target for _, _, has_target in long)
    are = "row is" if rows == 1 else "rows are"
    return DataError(
        f"{len(long):,} of {rows:,} {are} longer than {limit:,} tokens ({places}); the longest has {longest:,}.",
        remedy=(
            f"Set data.max_length to {longest} or more to keep all, or data.truncation to drop, which keeps the "
            f"other {rows - len(long):,}, or to cut, which also keeps the beginnings of {targets:,} answers."
        ),
        code="too-long",
    )
