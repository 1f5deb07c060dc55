"""Locks on files and folders that live exactly as long as their holders.

``flock`` on an open description, which children inherit. No pid, no time-out, nothing to clean up: the kernel lets go
when the last holder dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_SECONDS = 0.5
"""How long taking a lock waits, so that somebody's short look at it (``is_locked``) does not turn it away."""


class LockedError(OSError):
    """Somebody else holds the lock."""


@contextmanager
def share_folder(path: Path, *, wait_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold the folder at ``path`` together with whoever else shares it; nothing is written.

    Raises LockedError when somebody holds it alone for longer than ``wait_seconds``, FileNotFoundError when it is
    gone, OSError when the file system cannot lock.
    """
    with _held_folder(path, wait_seconds, fcntl.LOCK_SH):
        yield


@contextmanager
def share_lock(path: Path, *, wait_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Keep the lock at ``path`` from being held alone by anybody; the file is opened to read and never made.

    Raises as ``share_folder`` does.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _take(descriptor, path, time.monotonic() + wait_seconds, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def hold_folder(path: Path, *, wait_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold the folder at ``path`` alone; raises as ``share_folder`` does."""
    with _held_folder(path, wait_seconds, fcntl.LOCK_EX):
        yield


@contextmanager
def _held_folder(path: Path, wait_seconds: float, kind: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _take(descriptor, path, time.monotonic() + wait_seconds, kind)
        if not _is_open_on(descriptor, path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        yield
    finally:
        os.close(descriptor)


@contextmanager
def hold_lock(
    path: Path, *, inherited: int | None = None, wait_seconds: float = PATIENCE_SECONDS
) -> Iterator[int]:
    """Hold the lock at ``path`` alone and yield its file descriptor, which a child may be given.

    ``inherited`` is a descriptor from a parent that holds this lock: it is adopted when it is really that.
    Raises LockedError when another holder does not let go within ``wait_seconds``, OSError when the file
    system cannot lock.
    """
    adopted = inherited is not None and _is_open_on(inherited, path)
    descriptor = inherited if adopted and inherited is not None else _open(path)
    try:
        _take(descriptor, path, time.monotonic() + wait_seconds, fcntl.LOCK_EX)
        os.set_inheritable(descriptor, False)
        yield descriptor
    finally:
        os.close(descriptor)


def is_locked(path: str | Path) -> bool:
    """Whether some process holds the lock at ``path`` alone now; a missing file is held by nobody."""
    return _is_refused(path, fcntl.LOCK_SH)


def is_folder_held(path: Path) -> bool:
    """Whether some process holds the folder at ``path`` now, alone or with others."""
    return _is_refused(path, fcntl.LOCK_EX)


def _is_refused(path: str | Path, kind: int) -> bool:
    try:
        descriptor = os.open(path, os.O_CLOEXEC | os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _is_open_on(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _take(descriptor: int, path: Path, deadline: float, kind: int) -> None:
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise LockedError(error.errno, "held by another process", str(path)) from error
            time.sleep(0.01)
        else:
            return
