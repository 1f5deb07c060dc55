"""Load a source into rows, with what was refused, what was not read, and the SHA-256 of its bytes."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from backend.data.files import regular_file, require_new, unreadable, unwritable
from backend.data.formats import Shape, detect, how_to_use, other_shape, to_row
from backend.data.lineage import copied_columns
from backend.data.locate import Located, locate, take_part
from backend.data.padding import Padding, without_padding
from backend.data.pair_scores import PairScores, ScoredPairs
from backend.data.records import Record, Rejected, Row, Skipped, excerpt
from backend.data.refusals import listed
from backend.data.sources import Item, ReadOptions, read_file
from backend.data.store import spill_to_disk
from backend.data.text_files import proper_suffix
from backend.data.unread import UnreadKey, note_unread
from backend.data.unused import UnusedColumn, UnusedColumns
from backend.errors import DataError
from backend.utils.file_utils import sha256_file, write_text_durably
from backend.utils.text_utils import counted, shorten

SAMPLE_RECORDS = 200
SAMPLE_FILES = 20
MAX_REJECTED_KEPT = 10_000
MAX_LATE_COLUMNS = 10
FILES_NAMED = 5


@dataclass(frozen=True)
class Loaded:
    """The rows of a source, what was refused or skipped, how it was read, and the SHA-256 of its bytes.

    ``unread``: filled keys of messages that are not read; ``proper_suffix``: the suffix that a text file should have
    when its lines are not plain text, else ""; ``unused``: columns with ratings, marks, texts or labels that are no
    part of a row; ``options``: the options it was read with; ``scores``: what scores of both answers of pairs say.
    """

    rows: Sequence[Row]
    rejected: tuple[Rejected, ...]
    shape: Shape
    sha256: str
    skipped: tuple[Skipped, ...] = ()
    unread: tuple[UnreadKey, ...] = ()
    proper_suffix: str = ""
    unused: tuple[UnusedColumn, ...] = ()
    options: ReadOptions = field(default_factory=ReadOptions)
    scores: PairScores | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each thing that may not be read as it is meant."""
        keys = (each for each in self.unread if not each.harmless)
        plain = "Lines that look like rows are read as plain text: rename the file so that it ends in"
        return (
            *([f"{plain} {self.proper_suffix}."] if self.proper_suffix else []),
            *(f"Messages have a key that is not read: {each.description}." for each in keys),
            *(
                f"A column is not used: {each.description}. {how_to_use(each, self.shape)}"
                for each in self.unused
            ),
        )

    @property
    def reason(self) -> str:
        """The reason for the shape, and the files that were not read, as one sentence."""
        shown = ", ".join(f"{shorten(each.place, 60)} ({each.reason})" for each in self.skipped[:FILES_NAMED])
        more = f" and {len(self.skipped) - FILES_NAMED:,} more" if len(self.skipped) > FILES_NAMED else ""
        return self.shape.reason + (f"; not read: {shown}{more}" if shown else "")


@dataclass
class _Tally:
    """Everything that is noted while rows stream by, apart from the rows themselves.

    ``late``: columns that no sampled record has, which are not read, with the place of the first record that has one.
    """

    limit: float
    rejected: list[Rejected] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    late: dict[str, str] = field(default_factory=dict)
    unread: dict[str, UnreadKey] = field(default_factory=dict)
    unused: UnusedColumns = field(default_factory=lambda: UnusedColumns(()))
    padding: Padding = field(default_factory=Padding)
    scores: ScoredPairs = field(default_factory=ScoredPairs)
    rows: int = 0

    @property
    def total(self) -> int:
        return self.rows + len(self.rejected)

    @property
    def too_many(self) -> bool:
        return len(self.rejected) > self.limit * self.total

    def note(self, *, late: bool) -> str:
        """Return the addition to the reason of the shape; ``late``: mention late columns."""
        parts = []
        if self.late and late:
            columns = listed([f"{column} (first at {place})" for column, place in self.late.items()])
            parts.append(f"not used, and in no sampled row: {columns}")
        if self.unread:
            keys = listed([f"{each.key} ({counted(each.rows, 'row')})" for each in self.unread.values()])
            parts.append(f"not read in messages: {keys}")
        if self.padding.rows:
            parts.append(self.padding.description)
        return "".join(f"; {part}" for part in parts)


def load_rows(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    max_rejected_share: float = 0.0,
    options: ReadOptions | None = None,
    *,
    quarantine: Path | None = None,
) -> Loaded:
    """Load the rows of a path, folder, pattern or hub id, with a slice such as ``[:80%]`` applied.

    ``columns`` maps parts to columns and overrides detection; a mended copy brings its own map. Many rows are kept in
    a temporary file (``store``), so that memory does not grow with them. Rejected records are written to
    ``quarantine`` when there are any. Raises ``DataError`` when the source cannot be read, has no rows, or when more
    than ``max_rejected_share`` (0 to 1) of its records are refused.
    """
    if quarantine:
        require_new(quarantine)
    located = locate(path)
    sha256 = fingerprint(located)
    tally = _Tally(max_rejected_share, skipped=list(located.skipped))
    of_copy = None if columns else copied_columns(located, sha256)
    records = _records(located, options or ReadOptions(), tally)
    sample = list(itertools.islice(records, SAMPLE_RECORDS))
    try:
        if not sample and not tally.rejected:
            raise DataError(f"{path} has no rows.", remedy="Put at least one row into it.", code="no-rows")
        if not sample:
            raise _too_many_rejected(str(path), tally)
        shape_sample = sample_for_shape(sample, located, options or ReadOptions())
        shape = detect(shape_sample, columns or of_copy)
        if of_copy:
            shape = replace(
                shape, reason=shape.reason.replace(" as asked:", " as the copy's lineage.json says:")
            )
        every = _watched(itertools.chain(sample, records), shape_sample, shape, tally)
        rows = spill_to_disk(_rows(every, shape, tally))
        if tally.too_many or not rows:
            raise _too_many_rejected(str(path), tally)
    finally:
        if quarantine and tally.rejected:
            write_quarantine(tally.rejected, quarantine)
    _check_unchanged(located, sha256, str(path))
    if located.part is not None:
        rows = _part(rows, located.part, str(path))
    return Loaded(
        rows,
        tuple(tally.rejected),
        replace(shape, reason=shape.reason + tally.note(late=not columns)),
        sha256,
        tuple(tally.skipped),
        tuple(tally.unread.values()),
        _proper_suffix(shape, sample),
        tally.unused.found(shape.name),
        options or ReadOptions(),
        tally.scores.found,
    )


def sample_for_shape(first: list[Record], located: Located, options: ReadOptions) -> list[Record]:
    """Return the records to detect the shape by: the ``first`` ones, or some of each file if those are all of one.

    At most ``SAMPLE_FILES`` files are opened, evenly spread.
    """
    files = located.files[:: -(-len(located.files) // SAMPLE_FILES)]
    first_file = f"{files[0].name}:"
    if len(files) < 2 or len(first) < SAMPLE_RECORDS or not first[-1].place.startswith(first_file):
        return first
    share = SAMPLE_RECORDS // len(files)
    others = (
        itertools.islice((item for item in read_file(file, options) if isinstance(item, Record)), share)
        for file in files[1:]
    )
    return [*first[:share], *itertools.chain.from_iterable(others)]


def _proper_suffix(shape: Shape, sample: Sequence[Record]) -> str:
    """Return the suffix that a text file should have when its lines are JSON or a table; "" otherwise."""
    plain = shape.name == "text" and all(record.cells.keys() == {"text"} for record in sample)
    named = sample[0].place.rpartition(":")[0].lower().endswith((".txt", ".md"))
    return proper_suffix([record.cells["text"] for record in sample]) if plain and named else ""


def convert(items: Iterable[Item], shape: Shape) -> Iterator[Row | Rejected]:
    """Yield each record as a row in ``shape``, or as ``Rejected`` when it does not fit."""
    for item in items:
        if isinstance(item, Record):
            try:
                yield to_row(item, shape)
            except DataError as error:
                reason = error.message.removeprefix(f"{item.place}: ").removesuffix(".")
                other = other_shape(item, shape)
                reason += f"; {other}" if other else ""
                raw = json.dumps(item.cells, ensure_ascii=False, default=repr)
                yield Rejected(item.place, reason, excerpt(raw))
        elif isinstance(item, Rejected):
            yield item


def fingerprint(located: Located) -> str:
    """Return the SHA-256 of a source: of one file its bytes, of several their names and SHA-256 in order."""
    sums = [file_sha256(file.path) for file in located.files]
    if len(sums) == 1:
        return sums[0]
    lines = "".join(f"{each}  {file.name}\n" for each, file in zip(sums, located.files, strict=True))
    return hashlib.sha256(lines.encode("utf-8", errors="surrogateescape")).hexdigest()


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal; raises ``DataError`` when it cannot be read."""
    file = regular_file(Path(path))
    try:
        return sha256_file(file)
    except OSError as error:
        raise unreadable(file, error) from None


def write_quarantine(rejected: Iterable[Rejected], path: Path) -> None:
    """Write the refused records as JSONL with place, reason and the beginning of each.

    Raises ``DataError`` when the file cannot be written.
    """
    lines = (json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in rejected)
    try:
        write_text_durably(path, "".join(lines))
    except OSError as error:
        raise unwritable(path, error) from None


def _check_unchanged(located: Located, sha256: str, path: str) -> None:
    if fingerprint(located) != sha256:
        raise DataError(
            f"{path} changed while it was being read.",
            remedy="Start again once it is complete.",
            code="data-changed",
        )


def _records(located: Located, options: ReadOptions, tally: _Tally) -> Iterator[Record]:
    for file in located.files:
        for item in read_file(file, options):
            if isinstance(item, Record):
                yield item
            elif isinstance(item, Rejected):
                _reject(item, tally)
            else:
                tally.skipped.append(item)


def _watched(
    records: Iterable[Record], sample: Iterable[Record], shape: Shape, tally: _Tally
) -> Iterator[Record]:
    """Yield the records without Arrow's nulls, and note unread keys, unused and late columns, and scores of pairs."""
    columns = {**shape.later, **shape.columns}
    known = {*shape.later.values(), *(column for record in sample for column in record.cells)}
    tally.unused = UnusedColumns(columns.values())
    every = tally.unused.watch(_late(records, known, tally))
    if shape.name == "preference":
        every = tally.scores.watch(every)
    return without_padding(note_unread(every, columns, tally.unread), columns, tally.padding)


def _late(records: Iterable[Record], known: set[str], tally: _Tally) -> Iterator[Record]:
    """Yield the records unchanged and note the first columns that are not ``known``."""
    for record in records:
        if len(tally.late) < MAX_LATE_COLUMNS and not record.cells.keys() <= known:
            new = [column for column in record.cells if column not in known]
            tally.late.update(dict.fromkeys(new[: MAX_LATE_COLUMNS - len(tally.late)], record.place))
            known.update(new)
        yield record


def _rows(records: Iterable[Record], shape: Shape, tally: _Tally) -> Iterator[Row]:
    for item in convert(records, shape):
        if isinstance(item, Row):
            tally.rows += 1
            yield item
        else:
            _reject(item, tally)


def _reject(item: Rejected, tally: _Tally) -> None:
    tally.rejected.append(item)
    if len(tally.rejected) >= MAX_REJECTED_KEPT and tally.too_many:
        raise _too_many_rejected(item.place.rpartition(":")[0], tally)


def _part(rows: Sequence[Row], part: str, path: str) -> Sequence[Row]:
    chosen = rows[take_part(len(rows), part)]
    if not chosen:
        raise DataError(
            f"The slice of {path} holds none of its {counted(len(rows), 'row')}.",
            remedy="Write the lower end first, for example [:80%], [80%:] or [100:200].",
            code="no-rows",
        )
    return chosen


def _too_many_rejected(path: str, tally: _Tally) -> DataError:
    rejected = tally.rejected
    shown = "\n".join(f"  {item.place}: {item.reason}" for item in rejected[:3])
    more = f"\n  and {len(rejected) - 3:,} more" if len(rejected) > 3 else ""
    return DataError(
        f"{len(rejected):,} of {tally.total:,} rows of {path} cannot be used:\n{shown}{more}\n",
        remedy="Mend these rows, or allow a share of them to be left out with data.max_rejected_share.",
        code="rejected-rows",
    )
