"""Locks on files and folders that end with the processes that hold them.

They are ``flock`` locks on an open file description, which child processes inherit. There is no pid, no time-out and
nothing to clean up: the kernel releases the lock when the last holder exits.
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
"""Time to wait for a lock: ``is_locked`` takes it for an instant, which must not make a real holder fail."""


class LockedError(OSError):
    """Another process holds the lock."""


@contextmanager
def share_folder(path: Path, *, wait_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold a shared lock on the folder ``path``.

    Raises LockedError when a process holds it exclusively for longer than ``wait_seconds``, FileNotFoundError when it
    is gone, OSError when the file system cannot lock.
    """
    with _held_folder(path, wait_seconds, fcntl.LOCK_SH):
        yield


@contextmanager
def share_lock(path: Path, *, wait_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold a shared lock on the file ``path``, which must exist. Raises as ``share_folder`` does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _take(descriptor, path, time.monotonic() + wait_seconds, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def hold_folder(path: Path, *, wait_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold an exclusive lock on the folder ``path``. Raises as ``share_folder`` does."""
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
    """Hold an exclusive lock on the file ``path`` and yield its descriptor, to pass to a child process.

    ``inherited`` is a descriptor from a parent that holds this lock; it is used if it is open on the same file.
    Raises LockedError when another process keeps the lock for longer than ``wait_seconds``, OSError when the file
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
    """Return whether a process holds an exclusive lock on the file ``path``; False if there is no file."""
    return _is_refused(path, fcntl.LOCK_SH)


def is_folder_held(path: Path) -> bool:
    """Return whether a process holds a lock on the folder ``path``, exclusive or shared."""
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
