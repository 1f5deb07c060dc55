"""Write mended copies of a source: each a new versioned folder with the rows, every change, and the lineage.

``OUT/v001/rows.jsonl`` holds the rows in the source's columns, ``changes.jsonl`` each changed row before and after
with its place in the source, ``lineage.json`` the source and the fixes. Only the owner can read them, and no redacted
secret stands in any of them.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.data.checks.secrets import redact
from backend.data.exact_json import decode, encode
from backend.data.files import unwritable
from backend.data.formats import Shape, to_row
from backend.data.lineage import LINEAGE
from backend.data.locate import locate
from backend.data.records import Record, Row
from backend.data.sources import ReadOptions, read_file
from backend.data.texts import map_leaves, texts
from backend.data.write import row_record
from backend.errors import DataError
from backend.utils.file_utils import publish_folder
from backend.utils.text_utils import counted, writable

REDACT = "redact-secrets"


@dataclass(frozen=True)
class Change:
    """One row before and after a fix; ``after`` is None if the fix drops the row."""

    fix: str
    place: str
    before: Row
    after: Row | None


@dataclass(frozen=True)
class Mended:
    """The rows after all fixes, in order, and every change."""

    rows: tuple[Row, ...]
    changes: tuple[Change, ...]


@dataclass
class _Written:
    """Facts about the rows of a copy once they are written: part → column, columns left out, notes."""

    columns: Mapping[str, str]
    left_out: set[str] = field(default_factory=set)
    redacted: int = 0
    notes: list[str] = field(default_factory=list)


class _OtherShapeError(Exception):
    """A mended row does not fit the columns of its source."""


def write_copy(
    mended: Mended,
    out: Path,
    *,
    source: str,
    sha256: str,
    shape: Shape | None = None,
    options: ReadOptions | None = None,
) -> Path:
    """Write the mended rows as the next version under ``out`` and return its folder.

    The rows were loaded from ``source`` with ``sha256``, as ``shape`` and with ``options``. With a ``shape`` the
    source is read again and its columns are kept, unused ones included; without one only the rows are written.
    Raises ``DataError`` when ``out`` is a file or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file.", remedy="Name a folder for the mended copy.", code="not-a-folder")
    versions = [int(each.name[1:]) for each in out.glob("v*") if re.fullmatch(r"v\d{3,}", each.name)]
    version = max(versions, default=0) + 1
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".partial-", dir=out))
        written = _write_rows(staged / "rows.jsonl", mended, source, shape, options or ReadOptions())
        origin = {"source": writable(source), "source_sha256": sha256, "version": version}
        _write_lineage(staged, mended, written, origin)
        publish_folder(staged, out / f"v{version:03d}")
    except OSError as error:
        raise unwritable(out, error) from None
    return out / f"v{version:03d}"


def notes(folder: Path) -> list[str]:
    """Return a sentence for each thing that a copy leaves out of its source or writes differently."""
    return list(json.loads((folder / LINEAGE).read_text(encoding="utf-8"))["notes"])


def difference(change: Change) -> dict[str, object]:
    """Return a change as ``changes.jsonl`` has it: fix, place, record before and after, without secrets.

    A redacted row has no record before.
    """
    before = None if change.fix == REDACT else shown_record(change.before)
    after = None if change.after is None else shown_record(change.after)
    return {"fix": change.fix, "place": change.place, "before": before, "after": after}


def shown_record(row: Row) -> dict[str, Any]:
    """Return the record of a row with secrets redacted, safe for screens and logs."""
    return dict(map_leaves(row_record(row), redact))


def _write_lineage(staged: Path, mended: Mended, written: _Written, origin: Mapping[str, object]) -> None:
    """Write the changes and the lineage beside the rows in ``staged``."""
    lines = (json.dumps(difference(change), ensure_ascii=False) + "\n" for change in mended.changes)
    _write_lines(staged / "changes.jsonl", lines)
    lineage = {
        **origin,
        "rows": len(mended.rows),
        "rows_sha256": hashlib.sha256((staged / "rows.jsonl").read_bytes()).hexdigest(),
        "columns": dict(written.columns),
        "fixes": dict(sorted(Counter(change.fix for change in mended.changes).items())),
        "left_out": sum(change.after is None for change in mended.changes),
        "notes": written.notes,
    }
    _write_lines(staged / LINEAGE, [json.dumps(lineage, indent=2, ensure_ascii=False) + "\n"])


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.touch(mode=0o600)
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(lines)


def _write_rows(
    path: Path, mended: Mended, source: str, shape: Shape | None, options: ReadOptions
) -> _Written:
    """Write the rows in the columns of their source; if one does not fit, all in those of ``row_record``."""
    if shape is not None:
        columns = {**shape.later, **shape.columns}
        written = _Written(columns)
        try:
            _write_lines(path, _source_lines(mended, source, options, shape, written))
        except _OtherShapeError:
            written = _Written({})
            records = _records(source, options)
            _write_lines(path, _plain_lines(mended, records, frozenset(columns.values()), written))
            names = ", ".join(written.columns.values())
            written.notes.append(f"Written in the columns {names}, not in those of the source.")
    else:
        written = _Written({})
        _write_lines(path, _plain_lines(mended, iter(()), frozenset(), written))
    if written.left_out:
        names = ", ".join(sorted(written.left_out))
        written.notes.append(f"Left out, because JSON cannot hold them or their names are taken: {names}.")
    if written.redacted:
        rows = counted(written.redacted, "row")
        written.notes.append(f"Secrets in columns that are not read were redacted too, in {rows}.")
    return written


def _records(source: str, options: ReadOptions) -> Iterator[Record]:
    for file in locate(source).files:
        yield from (item for item in read_file(file, options) if isinstance(item, Record))


def _numbered_lines(source: str) -> Iterator[tuple[int, bytes]]:
    """Yield the numbered lines of a source that is one JSONL file; nothing for any other source."""
    (first, *others) = locate(source).files
    if not others and first.path.suffix in (".jsonl", ".ndjson"):
        with first.path.open("rb") as stream:
            yield from enumerate(stream, 1)


def _as_it_stood(record: Record, lines: Iterator[tuple[int, bytes]]) -> str:
    """Return the line that a record was read from, or ''; must be called in the order of the records."""
    wanted = record.place.rpartition(":")[2]
    raw = next((line for number, line in lines if str(number) == wanted), b"")
    try:
        line = raw.decode("utf-8").strip()
        return line if decode(line) == record.cells else ""
    except ValueError:
        return ""


def _source_lines(
    mended: Mended, source: str, options: ReadOptions, shape: Shape, written: _Written
) -> Iterator[str]:
    """Yield a line per row in the columns of the source; raises ``_OtherShapeError`` if one does not read back.

    A row of a JSONL file that no fix changed is written byte for byte as it was.
    """
    every = {**shape.later, **shape.columns}
    present: set[str] = set()
    raw = _numbered_lines(source)
    for row, record in _paired(mended.rows, _records(source, options)):
        if record is None:
            raise _OtherShapeError
        cells = _mended_cells(record, row, shape)
        kept = _cleaned(cells, frozenset(every.values()), mended, written)
        line = (_as_it_stood(record, raw) if kept == record.cells else "") or encode(kept)
        if to_row(Record(row.place, decode(line)), shape) != row:
            raise _OtherShapeError
        present |= kept.keys()
        yield line + "\n"
    written.columns = {part: column for part, column in every.items() if column in present}


def _plain_lines(
    mended: Mended, records: Iterator[Record], used: frozenset[str], written: _Written
) -> Iterator[str]:
    """Yield a line per row in the columns of ``row_record``, and the columns of the source that are not ``used``."""
    present: dict[str, None] = {}
    for row, record in _paired(mended.rows, records):
        plain = row_record(row)
        others = {name: cell for name, cell in (record.cells if record else {}).items() if name not in used}
        written.left_out |= others.keys() & plain.keys()
        present |= dict.fromkeys(plain)
        yield encode(_cleaned(others, frozenset(), mended, written) | plain) + "\n"
    written.columns = {name: name for name in present}


def _paired(rows: Iterable[Row], records: Iterator[Record]) -> Iterator[tuple[Row, Record | None]]:
    """Yield each row with the record it was read from, or None; both are in the order of the source."""
    for row in rows:
        yield row, next((record for record in records if record.place == row.place), None)


def _mended_cells(record: Record, row: Row, shape: Shape) -> dict[str, Any]:
    """Return the cells of a record with the changes that fixes made in its row."""
    try:
        original = to_row(record, shape)
    except DataError:
        raise _OtherShapeError from None
    cells = dict(record.cells)
    if original == row:
        return cells
    old, new = list(texts(original)), list(texts(row))
    columns = {**shape.later, **shape.columns}
    if len(old) != len(new) or original.tools != row.tools or _flags(original) != _flags(row):
        if "messages" not in columns:
            raise _OtherShapeError
        return cells | _messages_cells(cells, columns, row)
    changed = dict(zip(old, new, strict=True))

    def change(text: str) -> str:
        return changed[text] if text in changed else _changed_inside(text, changed)

    used = {column: map_leaves(cells[column], change) for column in columns.values() if column in cells}
    return cells | used


def _flags(row: Row) -> list[object]:
    return [message.get("trained", True) for message in row.messages]


def _changed_inside(text: str, changed: Mapping[str, str]) -> str:
    """Return the text of a cell with changes inside it: in the texts of JSON, or in lines of a longer text."""
    if text[:1] in ("[", "{"):
        try:
            return encode(map_leaves(decode(text), lambda each: changed.get(each, each)))
        except ValueError:
            pass
    for old, new in changed.items():
        start = f"\n{old}\n".find(f"\n{text}\n")
        if start >= 0 and old.count("\n") == new.count("\n"):
            first = old[:start].count("\n")
            return "\n".join(new.split("\n")[first : first + text.count("\n") + 1])
    return text


def _messages_cells(cells: Mapping[str, Any], columns: Mapping[str, str], row: Row) -> dict[str, Any]:
    """Return the messages of a row, and its tools, as the cells that they were read from."""
    plain = row_record(row)
    messages = plain["messages"]
    found: dict[str, Any] = {}
    system = columns.get("system", "")
    if cells.get(system) and messages[0]["role"] == "system":
        found[system], messages = messages[0]["content"], messages[1:]
    if "tools" in plain and cells.get(columns.get("tools", "")):
        found[columns["tools"]] = plain["tools"]
    name = columns["messages"]
    found[name] = encode(messages) if isinstance(cells.get(name), str) else messages
    return found


def _cleaned(
    cells: Mapping[str, Any], used: frozenset[str], mended: Mended, written: _Written
) -> dict[str, Any]:
    """Return the cells that JSON can hold; if secrets are redacted, the unused ones redacted too."""
    kept = {name: cell for name, cell in cells.items() if not _is_binary(cell)}
    written.left_out |= cells.keys() - kept.keys()
    if any(change.fix == REDACT for change in mended.changes):
        others = {name: map_leaves(cell, redact) for name, cell in kept.items() if name not in used}
        written.redacted += any(others[name] != kept[name] for name in others)
        kept |= others
    return kept


def _is_binary(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_is_binary, value.values()))
    return any(map(_is_binary, value)) if isinstance(value, list) else isinstance(value, bytes)
