"""Bytes set aside on a disk, to be given back when it is full. Floor F0: standard library only, no domain word."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

RESERVE_BYTES = 64 * 2**10
PART_BYTES = 16 * 2**10
"""Room for a few small files on a disk with blocks of 4 KiB, for one with blocks of 16 KiB."""


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed for want of room, on the disk or in the user's quota."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def set_aside(reserve: Path) -> None:
    """Fill the file ``reserve`` with ``RESERVE_BYTES``, unless it has them; a disk that refuses has none to spare.

    The bytes are random, since some disks compress zeros away.
    """
    with contextlib.suppress(OSError):
        if not reserve.exists() or reserve.stat().st_size < RESERVE_BYTES:
            descriptor = os.open(reserve, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(os.urandom(RESERVE_BYTES))


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
        size = reserve.stat().st_size
        if size > PART_BYTES:
            os.truncate(reserve, size - PART_BYTES)
        else:
            reserve.unlink()
    except OSError:
        return False
    return True
