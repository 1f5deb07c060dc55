"""Fingerprints of data and models by names, sizes and times of their files, without reading them."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

MAX_FILES = 20_000
"""Of a folder with more files only the first count: a page must not take long."""

# A source may end in a split and a slice: rows.jsonl:test[:80%].
_ENDING = re.compile(r"(?::[\w.-]+)?(?:\[[-\d%]*:[-\d%]*\])?$")


def fingerprint(*sources: str) -> str:
    """Return a text that changes when a file of one of ``sources`` changes.

    A source is a file, a folder, a pattern, or one of these with a split or a slice. Sources without local files,
    such as hub ids, never change.
    """
    marks = hashlib.sha256()
    for source in sources:
        for path in islice(_files(source), MAX_FILES):
            marks.update(_mark(path))
        marks.update(b"\0")
    return marks.hexdigest()


def _files(source: str) -> Iterator[str]:
    for place in dict.fromkeys((source, _ENDING.sub("", source))):
        path = os.path.expanduser(place)  # noqa: PTH111 - an unknown user is no error here
        if not place or "\0" in place:
            continue
        if os.path.isdir(path):  # noqa: PTH112 - a name that cannot be is no error here
            yield from _under(path)
        elif os.path.exists(path):  # noqa: PTH110
            yield path
        elif glob.has_magic(place):
            yield from sorted(islice(glob.iglob(path, recursive=True), MAX_FILES))  # noqa: PTH207


def _under(folder: str) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (f"{place}/{name}" for name in sorted(names))


def _mark(path: str) -> bytes:
    try:
        stat = Path(path).stat()
    except OSError:
        return b""
    return f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ino}\0".encode("utf-8", "surrogatepass")
