"""Room set aside on a disk, to be given back when it is full."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

PARTS = 4
PART_BYTES = 16 * 2**10
"""Each part is a file, since a disk may be out of files as well as of bytes. It holds a small file on a disk with
blocks of 16 KiB, or a few on one with blocks of 4 KiB."""


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed for want of room, on the disk or in the user's quota."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def set_aside(reserve: Path) -> None:
    """Fill the folder ``reserve`` with ``PARTS`` files, those that are missing; a full disk has none to spare.

    The bytes are random, since some disks compress zeros away.
    """
    with contextlib.suppress(OSError):
        reserve.mkdir(mode=0o700, exist_ok=True)
        for part in map(str, range(PARTS)):
            if not (reserve / part).exists():
                descriptor = os.open(reserve / part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(os.urandom(PART_BYTES))


def with_reserve(reserve: Path, write: Callable[[], None]) -> None:
    """Call ``write``; while the disk is full, give back a part of ``reserve`` and call it again.

    Raises what ``write`` raises: any other error, or a full disk when nothing is left to give back.
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
    """Give back all that is left of ``reserve``."""
    shutil.rmtree(reserve, ignore_errors=True)
