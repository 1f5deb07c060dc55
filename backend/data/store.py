"""Keep many rows in little memory: in an unnamed, memory-mapped Arrow file from which rows are read on demand.

The file lies in the folder for temporary files (TMPDIR) and disappears with the process, however it ends.
Conversations are stored as JSON text, so that no column type can change a value.
"""

from __future__ import annotations

import copy
import itertools
import json
import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Self, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from backend.data.files import unwritable
from backend.data.records import Row
from backend.data.texts import texts

IN_MEMORY_BYTES = 24 * 2**20
"""Rows up to about this size stay a list of Python objects: some 20,000 short ones."""
BATCH_BYTES = 2 * 2**20
ROW_BYTES = 1_000
"""About what a row takes besides its texts."""
SCHEMA = pa.schema(
    [
        ("place", pa.string()),
        ("messages", pa.large_string()),
        ("text", pa.large_string()),
        ("tools", pa.large_string()),
        ("chosen", pa.large_string()),
        ("rejected", pa.large_string()),
        ("label", pa.bool_()),
        ("segments", pa.large_string()),
        ("input_ids", pa.large_list(pa.int32())),
        ("labels", pa.large_list(pa.int32())),
        ("group", pa.large_string()),
    ]
)
"""The fields of a row, in their order."""
_JSON = ("messages", "chosen", "rejected", "segments")
_LISTS = ("input_ids", "labels")
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode

Numbers = npt.NDArray[np.int64]


def spill_to_disk(rows: Iterable[Row]) -> Sequence[Row]:
    """Return the rows as a list if they are few, else as a ``RowFile``; they are taken one at a time.

    Raises ``DataError`` when the temporary file cannot be written.
    """
    iterator = iter(rows)
    first = _up_to(IN_MEMORY_BYTES, iterator)
    following = next(iterator, None)
    if following is None:
        return first
    try:
        with tempfile.TemporaryFile() as stream:
            _write(itertools.chain(first, (following,), iterator), stream)
            return RowFile(stream)
    except OSError as error:
        raise unwritable(Path(tempfile.gettempdir()), error) from None


def rows_at(rows: Sequence[Row], numbers: Numbers) -> Sequence[Row]:
    """Return the rows with these numbers, in that order; those of a ``RowFile`` are still read on demand."""
    return rows[numbers] if isinstance(rows, RowFile) else [rows[number] for number in numbers.tolist()]


class RowFile(Sequence[Row]):
    """The rows of a mapped file, read on demand; a slice is a ``RowFile`` too and reads nothing."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pa.ipc.open_file(pa.py_buffer(self._map))
        self._batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        self._ends = np.cumsum([batch.num_rows for batch in self._batches])
        self._numbers: Numbers = np.arange(self._ends[-1], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice | Numbers) -> Self: ...
    def __getitem__(self, index: int | slice | Numbers) -> Row | Self:
        if isinstance(index, slice | np.ndarray):
            part = copy.copy(self)
            part._numbers = self._numbers[index]
            return part
        return next(self._read(self._numbers[[index]]))

    def __iter__(self) -> Iterator[Row]:
        return self._read(self._numbers)

    def _read(self, numbers: Numbers) -> Iterator[Row]:
        """Yield the rows with these numbers; neighbours in the same batch are read together."""
        if not len(numbers):
            return
        batch_of = np.searchsorted(self._ends, numbers, side="right")
        changes = np.flatnonzero(np.diff(batch_of)) + 1
        for start, end in itertools.pairwise((0, *changes.tolist(), len(numbers))):
            batch = self._batches[batch_of[start]]
            inside = numbers[start:end] - (self._ends[batch_of[start]] - batch.num_rows)
            if len(inside) == 1:
                yield from _rows(batch.slice(int(inside[0]), 1))
            else:
                yield from _rows(batch.take(pa.array(inside)))
                self._map.madvise(mmap.MADV_DONTNEED)  # the pages stay in the system's cache, not in ours


def _up_to(limit: int, rows: Iterator[Row]) -> list[Row]:
    """Return the next rows, about ``limit`` bytes and at least one; an empty list at the end."""
    found: list[Row] = []
    size = 0
    for row in rows:
        found.append(row)
        size += ROW_BYTES + sum(map(len, texts(row))) + 64 * len(row.input_ids)
        if size >= limit:
            break
    return found


def _write(rows: Iterator[Row], stream: IO[bytes]) -> None:
    with pa.ipc.new_file(stream, SCHEMA) as writer:
        while batch := _up_to(BATCH_BYTES, rows):
            writer.write_batch(_batch(batch))
    stream.flush()


def _batch(rows: list[Row]) -> Any:
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    for name in _JSON:
        columns[name] = [_ENCODE(value) if value else None for value in columns[name]]
    for name in _LISTS:
        columns[name] = [value or None for value in columns[name]]
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def _rows(batch: Any) -> list[Row]:
    columns = [_cells(name, column) for name, column in zip(SCHEMA.names, batch.columns, strict=True)]
    return list(itertools.starmap(Row, zip(*columns, strict=True)))


def _cells(name: str, column: Any) -> list[Any]:
    """Return a column's values as fields of rows; a column of nulls is not converted value by value."""
    if column.null_count == len(column):
        return [() if name in (*_JSON, *_LISTS) else None] * len(column)
    cells: list[Any] = column.to_pylist()
    if name in _JSON:
        cells = json.loads(f"[{','.join(cell or 'null' for cell in cells)}]")
    if name == "segments":
        return [tuple((text, trained) for text, trained in cell or ()) for cell in cells]
    return [tuple(cell or ()) for cell in cells] if name in (*_JSON, *_LISTS) else cells
