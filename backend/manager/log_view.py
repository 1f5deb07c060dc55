"""Return the end of a log as text that is safe to show: bounded, decoded, without control characters."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

VIEW_BYTES = 64 * 1024
LONGEST_LINE = 2000
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class LogNews:
    """New lines of a log; ``gap`` when some were missed (a burst longer than a view, or the log was cut)."""

    lines: tuple[str, ...]
    gap: bool = False


class LogTail:
    """Follows a growing log. ``poll`` gives what is new; the first one gives the end of what is there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0

    def poll(self) -> LogNews:
        """The complete lines since the last poll, at most ``VIEW_BYTES`` of them; none while there is no file."""
        try:
            with self._path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                replaced = self._inode not in {0, status.st_ino} or status.st_size < self._offset
                start = 0 if replaced else self._offset
                skipped = status.st_size - start > VIEW_BYTES
                stream.seek(status.st_size - VIEW_BYTES if skipped else start)
                data = stream.read(VIEW_BYTES)
        except FileNotFoundError:
            return LogNews(())
        first = self._inode == 0
        self._inode = status.st_ino
        whole = _whole_lines(data, cut_in_front=skipped)
        if skipped:
            self._offset = status.st_size - (len(data) - (data.rfind(b"\n") + 1))
        else:
            self._offset = start + len(whole)
        return LogNews(tuple(clean_lines(whole)), gap=replaced or (skipped and not first))


def _whole_lines(data: bytes, *, cut_in_front: bool) -> bytes:
    start = data.find(b"\n") + 1 if cut_in_front else 0
    return data[start : data.rfind(b"\n") + 1]


def clean_lines(data: bytes) -> list[str]:
    """The lines in some bytes, as a person would see them in a terminal.

    What is not UTF-8 becomes a replacement character, colours and other control characters go, of a progress bar
    that was drawn over and over only the last state stays, and a very long line is cut.
    """
    text = _ESCAPES.sub("", data.decode("utf-8", errors="replace"))
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    cleaned = [_CONTROLS.sub("", line) for line in lines]
    if cleaned and not cleaned[-1]:
        cleaned.pop()
    return [line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} …" for line in cleaned]
