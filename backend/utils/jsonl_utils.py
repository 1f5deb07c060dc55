"""JSON lines: an append-only writer that survives a crash, and an incremental reader of a growing file."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from backend.utils.file_utils import StrPath, last_bytes, parse_json, write_text_durably

_MARK_BYTES = 32
_FEW_BYTES = 2 * 1024


def finite_json(value: object) -> object:
    """Return ``value`` with every NaN and infinity as text (``"nan"``), since JSON has no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [finite_json(item) for item in value]
    return value


class JsonlWriter:
    """Appends JSON objects to a file, one per line, visible to readers at once.

    Opening removes an incomplete last line left by a crash. With ``keep_last`` the file keeps between that many and
    twice that many of the newest lines. One writer per file.
    """

    def __init__(self, path: Path, *, keep_last: int | None = None) -> None:
        self._path = path
        self._keep_last = keep_last
        self._open()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, 0o600)
        data = self._path.read_bytes() if self._keep_last else _last_bytes(self._descriptor)
        torn = len(data) - (data.rfind(b"\n") + 1)
        if torn:
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - torn)
        self._lines = data.count(b"\n")

    def append(self, record: Mapping[str, object]) -> None:
        """Add one line. NaN and infinity become text. Raises OSError, and then leaves no part of the line."""
        line = json.dumps(finite_json(record), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise
        self._lines += 1
        if self._keep_last and self._lines >= 2 * self._keep_last:
            self._shorten(self._keep_last)

    def _shorten(self, keep: int) -> None:
        lines = self._path.read_bytes().splitlines(keepends=True)  # str.splitlines also splits at U+2028
        self.close()
        write_text_durably(self._path, b"".join(lines[-keep:]).decode("utf-8"))
        self._open()

    def sync(self) -> None:
        """Force everything appended so far to the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _last_bytes(descriptor: int) -> bytes:
    """Return the end of the file from before its last line break, or all of it if there is none."""
    size = os.fstat(descriptor).st_size
    length = min(size, 64 * 1024)
    data = os.pread(descriptor, length, size - length)
    while b"\n" not in data and length < size:
        length = min(size, length * 4)
        data = os.pread(descriptor, length, size - length)
    return data


@dataclass(frozen=True)
class TailPosition:
    """A reader's position in a growing file: byte offset, the file's inode, and the bytes before the offset."""

    offset: int = 0
    inode: int = 0
    mark: bytes = b""


@dataclass(frozen=True)
class JsonlTail:
    """Records added since a position. ``restarted``: the file was replaced or cut, so drop earlier records.

    ``damaged`` counts the complete lines that were no JSON object and were left out.
    """

    records: list[dict[str, object]]
    position: TailPosition
    restarted: bool = False
    damaged: int = 0


def read_jsonl_tail(
    path: Path, position: TailPosition | None = None, *, limit_bytes: int | None = None
) -> JsonlTail:
    """Return the complete lines after ``position``, parsed; an incomplete last line waits for the next call.

    ``limit_bytes``: stop after the line that crosses this many bytes; call again until no record comes. A file that
    is shorter than before, or another file than before, is read from its start.
    """
    position = position or TailPosition()
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return JsonlTail([], TailPosition(), restarted=position.offset > 0)
    with stream:
        restarted = not _continues(stream, position)
        offset = 0 if restarted else position.offset
        stream.seek(offset)
        data = stream.read(limit_bytes)
        data += stream.readline() if limit_bytes else b""
        data = data[: data.rfind(b"\n") + 1]
        inode = os.fstat(stream.fileno()).st_ino
    mark = (b"" if restarted else position.mark) + data[-_MARK_BYTES:]
    records, damaged = _parse_lines(data)
    return JsonlTail(
        records, TailPosition(offset + len(data), inode, mark[-_MARK_BYTES:]), restarted, damaged
    )


def _continues(stream: IO[bytes], position: TailPosition) -> bool:
    if position.offset == 0:
        return True
    stream.seek(position.offset - len(position.mark))
    same_file = os.fstat(stream.fileno()).st_ino == position.inode
    return same_file and stream.read(len(position.mark)) == position.mark


def _parse_lines(data: bytes) -> tuple[list[dict[str, object]], int]:
    records: list[dict[str, object]] = []
    damaged = 0
    for line in data.splitlines():
        record = _parse_line(line)
        if record is not None:
            records.append(record)
        elif line.strip():
            damaged += 1
    return records, damaged


def _parse_line(line: bytes) -> dict[str, object] | None:
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def keep_lines(path: Path, keep: Callable[[dict[str, object]], bool]) -> None:
    """Rewrite a JSONL file atomically with only the records that ``keep`` accepts; damaged lines are dropped.

    Does nothing when the file is missing or nothing would change. Raises OSError.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return
    kept = [line for line in text.splitlines(keepends=True) if line.endswith(b"\n") and _keeps(line, keep)]
    if b"".join(kept) != text:
        write_text_durably(path, b"".join(kept).decode("utf-8"))


def _keeps(line: bytes, keep: Callable[[dict[str, object]], bool]) -> bool:
    records, _ = _parse_lines(line)
    return bool(records) and keep(records[0])


def last_records(path: StrPath, *, limit_bytes: int = 64 * 1024) -> Iterator[dict[str, object]]:
    """Yield the records in the last ``limit_bytes`` of a JSONL file, newest first; none without the file."""
    data, from_its_start = last_bytes(path, limit_bytes)
    whole = data[0 if from_its_start else data.find(b"\n") + 1 : data.rfind(b"\n") + 1]
    for line in reversed(whole.splitlines()):
        yield from _parse_lines(line)[0]


def newest_with(
    path: StrPath, keys: Sequence[str], *, limit_bytes: int = 64 * 1024
) -> list[dict[str, object]]:
    """Return for each key the newest record in the last ``limit_bytes`` that has it, or {}.

    Only lines that contain the key are parsed, and the last ``_FEW_BYTES`` are tried first: a listing of runs reads
    ten thousand such files.
    """
    for length in (_FEW_BYTES, limit_bytes):
        data, from_its_start = last_bytes(path, length)
        found = [_newest(data, key) for key in keys]
        if from_its_start or all(found):
            break
    return found


def _newest(data: bytes, key: str) -> dict[str, object]:
    """Return the last complete record in ``data`` with this key, or {}; the first and last line may be cut."""
    mark, end = f'"{key}"'.encode(), data.rfind(b"\n") + 1
    while (at := data.rfind(mark, 0, end)) >= 0:
        start = data.rfind(b"\n", 0, at) + 1
        record = _parse_line(data[start : data.find(b"\n", at)])
        if record and key in record:
            return record
        end = start
    return {}
