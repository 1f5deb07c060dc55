"""Rows on disk as an Arrow file that is mapped into memory: any number of rows in little memory.

Conversations are kept as JSON text, so that no column type can change anybody's words.
"""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import pyarrow as pa  # type: ignore[import-untyped]

from backend.data.columnar import damaged_columnar
from backend.data.files import unwritable
from backend.data.records import Row

BATCH_ROWS = 5_000
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
_JSON = ("messages", "chosen", "rejected", "segments")
_LISTS = ("input_ids", "labels")
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


def write_rows(rows: Iterable[Row], path: Path) -> int:
    """Write the rows to ``path`` and return how many; the file appears only once it is whole.

    Rows are taken one batch at a time. Raises ``DataError`` when the file cannot be written.
    """
    count = 0
    partial = path.with_name(path.name + ".partial")
    iterator = iter(rows)
    try:
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            while batch := list(itertools.islice(iterator, BATCH_ROWS)):
                writer.write_batch(_batch(batch))
                count += len(batch)
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        partial.unlink(missing_ok=True)
    return count


class RowFile(Sequence[Row]):
    """The rows of a file that ``write_rows`` wrote, read where they are asked for.

    Raises ``DataError`` when the file is damaged. Close it, or use it in a ``with`` statement.
    """

    def __init__(self, path: Path) -> None:
        with damaged_columnar(path.name):
            self._map = pa.memory_map(str(path))
            self._reader = pa.ipc.open_file(self._map)
            batches = [self._reader.get_batch(index) for index in range(self._reader.num_record_batches)]
        self._batches = batches
        self._ends = list(itertools.accumulate(batch.num_rows for batch in batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, position)
        batch = self._batches[number]
        return _rows(batch.slice(position - (self._ends[number] - batch.num_rows), 1))[0]

    def __iter__(self) -> Iterator[Row]:
        for batch in self._batches:
            for start in range(0, batch.num_rows, 500):
                yield from _rows(batch.slice(start, 500))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; the rows are gone afterwards."""
        self._batches = []
        self._ends = []
        self._reader = None
        self._map.close()


def _batch(rows: list[Row]) -> Any:
    columns: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in rows] for name in ("place", "text", "tools", "label", "group")
    }
    for name in _JSON:
        values = (getattr(row, name) for row in rows)
        columns[name] = [_ENCODE(value) if value else None for value in values]
    for name in _LISTS:
        columns[name] = [getattr(row, name) or None for row in rows]
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def _rows(batch: Any) -> list[Row]:
    return [Row(**_cells(cells)) for cells in batch.to_pylist()]


def _cells(cells: dict[str, Any]) -> dict[str, Any]:
    for name in _JSON:
        cells[name] = tuple(json.loads(cells[name])) if cells[name] else ()
    cells["segments"] = tuple((text, trained) for text, trained in cells["segments"])
    for name in _LISTS:
        cells[name] = tuple(cells[name] or ())
    return cells
