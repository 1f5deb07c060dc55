"""What was found out about the files of a folder, remembered until one of them changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

FolderMarks = tuple[tuple[str, int, int, int, int], ...]
"""Name, inode, size in bytes, and times of the last change of content and of anything, in ns, of each file."""

_SETTLED_NS = 2 * 10**9
"""A clock that ticks slowly gives two changes the same time: what changed this recently is looked at again."""


def folder_marks(folder: Path) -> FolderMarks:
    """Return what tells a changed file directly in ``folder`` from an unchanged one, without reading any."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_file():
            seen = path.stat()  # of the file itself where the name is a link to it, as in the Hub's cache
            found.append((path.name, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns))
    return tuple(found)


def while_unchanged(find: Callable[[Path], T]) -> Callable[[Path], T]:
    """Let ``find`` answer from memory for a folder whose files have not changed since it read them.

    Errors are not remembered. A flipped bit on the disk changes no mark: only what reads the files again notices it.
    """

    @lru_cache(maxsize=64)
    def remembered(folder: Path, marks: FolderMarks) -> T:  # noqa: ARG001  the marks are the key
        return find(folder)

    @wraps(find)
    def answer(folder: Path) -> T:
        marks = folder_marks(folder)
        newest = max((max(mark[3:]) for mark in marks), default=0)
        settled = newest < time.time_ns() - _SETTLED_NS
        return remembered(folder, marks) if settled else find(folder)

    return answer
