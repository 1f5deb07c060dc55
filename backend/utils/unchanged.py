"""Cache a function's result for a folder until one of the folder's files changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

FolderMarks = tuple[tuple[str, int, int, int, int], ...]
"""For each file: name, inode, size in bytes, mtime and ctime in nanoseconds."""

_SETTLED_NS = 2 * 10**9
"""A file that changed this recently is not cached: on a coarse clock the next change may get the same time."""


def folder_marks(folder: Path) -> FolderMarks:
    """Return the marks by which a change of a file directly in ``folder`` shows, without reading any file."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_file():
            status = path.stat()  # follows links: in the Hub's cache every file is one
            found.append((path.name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


def while_unchanged(find: Callable[[Path], T]) -> Callable[[Path], T]:
    """Wrap ``find`` with a cache that is valid while the files of the folder do not change.

    Errors are not cached. Damage on the disk changes no mark, so only reading the files again can find it.
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
