"""Keep some disk space in reserve, to be freed when the disk is full and a last write must succeed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

PARTS = 4
PART_BYTES = 16 * 2**10
"""Each part is a file of its own, since a disk may run out of inodes as well as of bytes. One part makes room for a
small file on a disk with blocks of 16 KiB, for a few with blocks of 4 KiB."""


def is_disk_full(error: OSError) -> bool:
    """Return whether a write failed because the disk, or the user's quota, is full."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def set_aside(reserve: Path) -> None:
    """Write the missing ones of ``PARTS`` files into the folder ``reserve``; errors are ignored.

    The bytes are random, since some file systems compress zeros to nothing.
    """
    with contextlib.suppress(OSError):
        reserve.mkdir(mode=0o700, exist_ok=True)
        for part in map(str, range(PARTS)):
            if not (reserve / part).exists():
                descriptor = os.open(reserve / part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(os.urandom(PART_BYTES))


def with_reserve(reserve: Path, write: Callable[[], None]) -> None:
    """Call ``write``; while it fails because the disk is full, free a part of ``reserve`` and call it again.

    Raises what ``write`` raises: any other error, or a full disk once the reserve is used up.
    """
    while True:
        try:
            return write()
        except OSError as error:
            if not is_disk_full(error) or not _give_back(reserve):
                raise


def _give_back(reserve: Path) -> bool:
    try:
        parts = sorted(reserve.iterdir())
        for part in parts[:1]:
            part.unlink()
    except OSError:
        return False
    return bool(parts)


def release(reserve: Path) -> None:
    """Delete what is left of ``reserve``."""
    shutil.rmtree(reserve, ignore_errors=True)
