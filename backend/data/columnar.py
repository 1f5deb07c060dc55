"""Parquet and Arrow files, read in batches; texts stay as they are, other values are spelled out.

Needs a file that can be sought in, except for the Arrow stream format.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from pyarrow import types

from backend.data.records import Record, Rejected
from backend.errors import DataError

BATCH_ROWS = 1_000


def columnar_kind(head: bytes) -> str | None:
    """``parquet``, ``arrow`` (file) or ``arrow-stream`` by the first bytes, else None."""
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1"):
        return "arrow"
    return "arrow-stream" if head.startswith(b"\xff\xff\xff\xff") and len(head) > 8 else None


def read_columnar(source: Any, kind: str, name: str) -> Iterator[Record | Rejected]:
    """The rows of an open Parquet or Arrow file; places are row numbers.

    Raises ``DataError`` when the file is damaged.
    """
    number = 0
    with damaged_columnar(name):
        for batch in _batches(source, kind):
            for cells in _rows(batch):
                number += 1
                if isinstance(cells, str):
                    yield Rejected(f"{name}:{number}", cells)
                else:
                    yield Record(f"{name}:{number}", cells)


@contextmanager
def damaged_columnar(name: str) -> Iterator[None]:
    """Turn what pyarrow raises into a ``DataError`` that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{name} is damaged or no such file: {str(error).splitlines()[0] if str(error) else 'unreadable'}.",
            remedy="Write or download it again.",
            code="damaged-file",
        ) from None


def _batches(source: Any, kind: str) -> Iterator[Any]:
    if kind == "parquet":
        with pq.ParquetFile(source) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS)
    elif kind == "arrow":
        with pa.ipc.open_file(source) as reader:
            for index in range(reader.num_record_batches):
                yield from _slices(reader.get_batch(index))
    else:
        with pa.ipc.open_stream(source) as reader:
            for batch in reader:
                yield from _slices(batch)


def _slices(batch: Any) -> Iterator[Any]:
    for start in range(0, batch.num_rows, BATCH_ROWS):
        yield batch.slice(start, BATCH_ROWS)


def _rows(batch: Any) -> Iterator[Mapping[str, Any] | str]:
    """The cells of each row, or the reason why the row cannot be read."""
    batch.validate(full=True)
    names = batch.schema.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the column {twice!r} stands twice")
    typed = [name for name, column in zip(names, batch.columns, strict=True) if not _is_simple(column.type)]
    for cells in batch.to_pylist():
        for name in typed:
            cells[name] = _spelled(cells[name])
        yield cells


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
