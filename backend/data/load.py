"""A source into rows, with everything that was refused and the fingerprint of what was read."""

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
from backend.data.records import Record, Rejected, Row, Skipped, excerpt
from backend.data.refusals import listed
from backend.data.sources import Item, ReadOptions, read_file
from backend.data.store import spill_to_disk
from backend.data.text_files import disguised
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
    """The rows of a source, what was refused or left aside, how it was read, and the SHA-256 of its bytes.

    ``unread``: the keys of messages that hold something nobody reads; ``disguised``: the ending that a text file
    should have, where its lines are no plain text; ``unused``: columns that hold ratings, texts or labels and are no
    part of a row; ``options``: what was said of how to read it.
    """

    rows: Sequence[Row]
    rejected: tuple[Rejected, ...]
    shape: Shape
    sha256: str
    skipped: tuple[Skipped, ...] = ()
    unread: tuple[UnreadKey, ...] = ()
    disguised: str = ""
    unused: tuple[UnusedColumn, ...] = ()
    options: ReadOptions = field(default_factory=ReadOptions)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is read in another way than it may be meant, a sentence each."""
        keys = (each for each in self.unread if not each.harmless)
        plain = "Lines that look like rows are read as plain text: rename the file so that it ends in"
        return (
            *([f"{plain} {self.disguised}."] if self.disguised else []),
            *(f"Messages have a key that is not read: {each.description}." for each in keys),
            *(
                f"A column is not used: {each.description}. {how_to_use(each, self.shape)}"
                for each in self.unused
            ),
        )

    @property
    def reason(self) -> str:
        """Why the rows were read in this shape, and which files were not read, as one sentence."""
        shown = ", ".join(f"{shorten(each.place, 60)} ({each.reason})" for each in self.skipped[:FILES_NAMED])
        more = f" and {len(self.skipped) - FILES_NAMED:,} more" if len(self.skipped) > FILES_NAMED else ""
        return self.shape.reason + (f"; not read: {shown}{more}" if shown else "")


@dataclass
class _Aside:
    """What is put aside while the rows stream by.

    ``late``: columns that no sampled record has and that are not read, with the place where each stands first.
    """

    limit: float
    rejected: list[Rejected] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    late: dict[str, str] = field(default_factory=dict)
    unread: dict[str, UnreadKey] = field(default_factory=dict)
    unused: UnusedColumns = field(default_factory=lambda: UnusedColumns(()))
    padding: Padding = field(default_factory=Padding)
    rows: int = 0

    @property
    def total(self) -> int:
        return self.rows + len(self.rejected)

    @property
    def too_many(self) -> bool:
        return len(self.rejected) > self.limit * self.total

    def said(self, *, late: bool) -> str:
        """What is added to the reason why the rows are read so; ``late``: new columns were not asked for."""
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
    """Every row behind a path, folder, pattern or hub id, with a slice such as ``[:80%]`` applied.

    ``columns`` maps parts to columns and beats detection; a mended copy brings its own map. Many rows are mapped from
    a temporary file (``store``), so that memory does not grow with them. Rejected records are written to
    ``quarantine`` when there are any. Raises ``DataError`` when the source cannot be read, has no rows, or when more
    than ``max_rejected_share`` (0 to 1) of its records are refused.
    """
    if quarantine:
        require_new(quarantine)
    located = locate(path)
    sha256 = fingerprint(located)
    aside = _Aside(max_rejected_share, skipped=list(located.skipped))
    of_copy = None if columns else copied_columns(located, sha256)
    records = _records(located, options or ReadOptions(), aside)
    sample = list(itertools.islice(records, SAMPLE_RECORDS))
    try:
        if not sample and not aside.rejected:
            raise DataError(f"{path} has no rows.", remedy="Put at least one row into it.", code="no-rows")
        if not sample:
            raise _too_many_rejected(str(path), aside)
        looked_at = sample_for_shape(sample, located, options or ReadOptions())
        shape = detect(looked_at, columns or of_copy)
        if of_copy:
            shape = replace(
                shape, reason=shape.reason.replace(" as asked:", " as the copy's lineage.json says:")
            )
        every = _watched(itertools.chain(sample, records), looked_at, shape, aside)
        rows = spill_to_disk(_rows(every, shape, aside))
        if aside.too_many or not rows:
            raise _too_many_rejected(str(path), aside)
    finally:
        if quarantine and aside.rejected:
            write_quarantine(aside.rejected, quarantine)
    _check_unchanged(located, sha256, str(path))
    if located.part is not None:
        rows = _part(rows, located.part, str(path))
    return Loaded(
        rows,
        tuple(aside.rejected),
        replace(shape, reason=shape.reason + aside.said(late=not columns)),
        sha256,
        tuple(aside.skipped),
        tuple(aside.unread.values()),
        _disguised(shape, sample),
        aside.unused.found(shape.name),
        options or ReadOptions(),
    )


def sample_for_shape(first: list[Record], located: Located, options: ReadOptions) -> list[Record]:
    """Records to detect the shape by: the ``first`` ones, or as many of each file where those are all of one file.

    At most ``SAMPLE_FILES`` files are looked into, evenly spread.
    """
    files = located.files[:: -(-len(located.files) // SAMPLE_FILES)]
    begun = f"{files[0].name}:"
    if len(files) < 2 or len(first) < SAMPLE_RECORDS or not first[-1].place.startswith(begun):
        return first
    share = SAMPLE_RECORDS // len(files)
    others = (
        itertools.islice((item for item in read_file(file, options) if isinstance(item, Record)), share)
        for file in files[1:]
    )
    return [*first[:share], *itertools.chain.from_iterable(others)]


def _disguised(shape: Shape, sample: Sequence[Record]) -> str:
    """The ending that a file of plain text should have; only of such have the records no other column."""
    plain = shape.name == "text" and all(record.cells.keys() == {"text"} for record in sample)
    named = sample[0].place.rpartition(":")[0].lower().endswith((".txt", ".md"))
    return disguised([record.cells["text"] for record in sample]) if plain and named else ""


def convert(items: Iterable[Item], shape: Shape) -> Iterator[Row | Rejected]:
    """Each record as a row in ``shape``; what does not fit comes out as ``Rejected``."""
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
    """The SHA-256 of a source: of one file its bytes, of several their names and SHA-256 in order."""
    sums = [file_sha256(file.path) for file in located.files]
    if len(sums) == 1:
        return sums[0]
    lines = "".join(f"{each}  {file.name}\n" for each, file in zip(sums, located.files, strict=True))
    return hashlib.sha256(lines.encode("utf-8", errors="surrogateescape")).hexdigest()


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; raises ``DataError`` when it cannot be read."""
    file = regular_file(Path(path))
    try:
        return sha256_file(file)
    except OSError as error:
        raise unreadable(file, error) from None


def write_quarantine(rejected: Iterable[Rejected], path: Path) -> None:
    """Write what was refused as JSONL with place, reason and the beginning of what stands there.

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


def _records(located: Located, options: ReadOptions, aside: _Aside) -> Iterator[Record]:
    for file in located.files:
        for item in read_file(file, options):
            if isinstance(item, Record):
                yield item
            elif isinstance(item, Rejected):
                _put_aside(item, aside)
            else:
                aside.skipped.append(item)


def _watched(
    records: Iterable[Record], sample: Iterable[Record], shape: Shape, aside: _Aside
) -> Iterator[Record]:
    """The records without padding; what nobody reads of them, and the first new columns, are noted."""
    columns = {**shape.later, **shape.columns}
    known = {*shape.later.values(), *(column for record in sample for column in record.cells)}
    aside.unused = UnusedColumns(columns.values())
    every = aside.unused.watch(_late(records, known, aside))
    return without_padding(note_unread(every, columns, aside.unread), columns, aside.padding)


def _late(records: Iterable[Record], known: set[str], aside: _Aside) -> Iterator[Record]:
    """The records as they are; the first columns that are not ``known`` are noted."""
    for record in records:
        if len(aside.late) < MAX_LATE_COLUMNS and not record.cells.keys() <= known:
            new = [column for column in record.cells if column not in known]
            aside.late.update(dict.fromkeys(new[: MAX_LATE_COLUMNS - len(aside.late)], record.place))
            known.update(new)
        yield record


def _rows(records: Iterable[Record], shape: Shape, aside: _Aside) -> Iterator[Row]:
    for item in convert(records, shape):
        if isinstance(item, Row):
            aside.rows += 1
            yield item
        else:
            _put_aside(item, aside)


def _put_aside(item: Rejected, aside: _Aside) -> None:
    aside.rejected.append(item)
    if len(aside.rejected) >= MAX_REJECTED_KEPT and aside.too_many:
        raise _too_many_rejected(item.place.rpartition(":")[0], aside)


def _part(rows: Sequence[Row], part: str, path: str) -> Sequence[Row]:
    chosen = rows[take_part(len(rows), part)]
    if not chosen:
        raise DataError(
            f"The slice of {path} holds none of its {counted(len(rows), 'row')}.",
            remedy="Write the lower end first, for example [:80%], [80%:] or [100:200].",
            code="no-rows",
        )
    return chosen


def _too_many_rejected(path: str, aside: _Aside) -> DataError:
    rejected = aside.rejected
    shown = "\n".join(f"  {item.place}: {item.reason}" for item in rejected[:3])
    more = f"\n  and {len(rejected) - 3:,} more" if len(rejected) > 3 else ""
    return DataError(
        f"{len(rejected):,} of {aside.total:,} rows of {path} cannot be used:\n{shown}{more}\n",
        remedy="Mend these rows, or allow a share of them to be left out with data.max_rejected_share.",
        code="rejected-rows",
    )
