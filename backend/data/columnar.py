"""Read Parquet and Arrow files in batches; texts stay as they are, dates and decimals become text.

The file must be able to seek, except in the Arrow stream format.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from pyarrow import types

from backend.data.archives import Allowance
from backend.data.records import Record, Rejected
from backend.errors import DataError

BATCH_ROWS = 1_000
FEWEST_ROWS = 32
BATCH_BYTES = 256 * 2**20
CHUNK_BYTES = 8 * 2**20
"""Rows of about this many bytes are converted to Python objects at a time."""
ROW_BYTES = 2**20
DICTIONARY_BYTES = 5 * 2**19
"""A column chunk up to this size may be nothing but a dictionary: writers stop one at about a megabyte."""
LONG_TEXT_BYTES = 10_000
MAX_BYTES_A_CHARACTER = 4


def columnar_kind(head: bytes) -> str | None:
    """Return ``parquet``, ``arrow`` (file format) or ``arrow-stream`` by the first bytes, else None."""
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1"):
        return "arrow"
    return "arrow-stream" if head.startswith(b"\xff\xff\xff\xff") and len(head) > 8 else None


def read_columnar(
    source: Any, kind: str, name: str, limit: int = 16_000_000, allowance: Allowance | None = None
) -> Iterator[Record | Rejected]:
    """Yield the rows of an open Parquet or Arrow file; places are row numbers.

    ``limit`` is the most characters one row may have; the bytes read are taken off ``allowance``. Raises
    ``DataError`` when the file is damaged or unpacks to far more than its size.
    """
    number = 0
    with damaged_columnar(name):
        for batch in _batches(source, kind):
            sizes = _row_bytes(batch)
            if allowance:
                allowance.spend(int(sizes.sum()), name)
            for cells in _rows(batch, sizes, limit):
                number += 1
                if isinstance(cells, str):
                    yield Rejected(f"{name}:{number}", cells)
                else:
                    yield Record(f"{name}:{number}", cells)


@contextmanager
def damaged_columnar(name: str) -> Iterator[None]:
    """Turn the errors of pyarrow into a ``DataError`` that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, OverflowError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{name} is damaged: {str(error).splitlines()[0] if str(error) else 'it cannot be read'}.",
            remedy="Save or download it again.",
            code="damaged-file",
        ) from None


def _batches(source: Any, kind: str) -> Iterator[Any]:
    if kind == "parquet":
        metadata = pq.read_metadata(source)
        repeated, rows = _parquet_plan(metadata)
        source.seek(0)
        with pq.ParquetFile(source, metadata=metadata, read_dictionary=repeated) as file:
            yield from file.iter_batches(batch_size=rows)
    elif kind == "arrow":
        with pa.ipc.open_file(source) as reader:
            for index in range(reader.num_record_batches):
                yield from _slices(reader.get_batch(index))
    else:
        with pa.ipc.open_stream(source) as reader:
            for batch in reader:
                yield from _slices(batch)


def _parquet_plan(metadata: Any) -> tuple[list[str], int]:
    """Return the columns to read as dictionaries, and how many rows to read at a time.

    A dictionary column may hold one long text in thousands of rows in a few bytes: read as plain text it would fill
    the memory.
    """
    repeated, rows = set(), BATCH_ROWS
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if not column.has_dictionary_page or column.physical_type != "BYTE_ARRAY":
                continue
            size, mean = (
                column.total_uncompressed_size,
                column.total_uncompressed_size / max(1, column.num_values),
            )
            if size <= DICTIONARY_BYTES and "." not in column.path_in_schema:
                repeated.add(column.path_in_schema)
            elif size > DICTIONARY_BYTES:
                fewest = 1 if mean > LONG_TEXT_BYTES else FEWEST_ROWS
                rows = min(rows, max(fewest, BATCH_BYTES // size))
    return sorted(repeated), rows


def _slices(batch: Any) -> Iterator[Any]:
    for start in range(0, batch.num_rows, BATCH_ROWS):
        yield batch.slice(start, BATCH_ROWS)


def _row_bytes(batch: Any) -> Any:
    """Return about how many bytes the texts of each row take, ``[rows]``."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        kind = column.type
        if types.is_dictionary(kind) and _is_bytes(kind.value_type):
            sizes += _lengths(_lengths_of(column.dictionary).take(column.indices))
        elif _is_bytes(kind):
            sizes += _lengths(_lengths_of(column))
        elif types.is_nested(kind) and column.nbytes > ROW_BYTES:
            sizes += np.array([column.slice(row, 1).nbytes for row in range(len(column))], np.int64)
    return sizes


def _is_bytes(kind: Any) -> bool:
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    )


def _lengths_of(column: Any) -> Any:
    return pc.cast(pc.binary_length(column), pa.int64())


def _lengths(lengths: Any) -> Any:
    return pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False)


def _rows(batch: Any, sizes: Any, limit: int) -> Iterator[Mapping[str, Any] | str]:
    """Yield the cells of each row, or the reason why it cannot be read; a few megabytes of rows at a time."""
    batch.validate(full=True)
    names = batch.schema.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the column {twice!r} stands twice")
    too_long = f"the row has more than {limit:,} characters"
    start = 0
    while start < batch.num_rows:
        if sizes[start] > MAX_BYTES_A_CHARACTER * limit:
            yield too_long
            start += 1
            continue
        reach = int(np.searchsorted(np.cumsum(sizes[start:]), CHUNK_BYTES, side="right"))
        end = start + max(1, reach)
        for size, cells in zip(sizes[start:end], _cells(batch.slice(start, end - start)), strict=True):
            yield too_long if size > limit and _characters(cells) > limit else cells
        start = end


def _cells(batch: Any) -> Iterator[dict[str, Any]]:
    columns = [_values(column) for column in batch.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(batch.schema.names, values, strict=True))


def _values(column: Any) -> list[Any]:
    """Return the cells of a column; a value that Python cannot hold becomes Arrow's text for it."""
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError, pa.ArrowException):
        return [_shown(cell) for cell in column]
    return values if _is_simple(column.type) else [_spelled(value) for value in values]


def _shown(cell: Any) -> Any:
    try:
        return _spelled(cell.as_py())
    except (OverflowError, ValueError, pa.ArrowException):
        pass
    try:
        return str(cell.cast(pa.string()).as_py())
    except (OverflowError, ValueError, pa.ArrowException):
        return f"{getattr(cell, 'value', '?')} ({cell.type})"


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return sum(map(_characters, inner))


def _is_simple(kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind))


def _spelled(value: Any) -> Any:
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    if isinstance(value, dict):
        return {key: _spelled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(item) for item in value]
    return value
