"""Durable atomic writes of files and folders, strict reads, and safe file names.

Durable writes go through ``FileSystem``, five operations that a test can fail, record or crash at. With the
environment variable ``TUNESMITH_CRASHPOINT=save:3`` the process kills itself just before the third operation of the
protocol ``save``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol, TypeAlias, cast
from urllib.parse import unquote

import orjson

from backend.utils.lock_utils import is_folder_held

CRASHPOINT = "TUNESMITH_CRASHPOINT"
JSON_LIMIT_BYTES = 16 * 2**20
_SMALL_BYTES = 64 * 2**10
_TEMPORARY = re.compile(r"^\..+\.[0-9a-f]{16}\.tmp$")
_SAFE_NAME = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
_RESERVED = frozenset(
    ["con", "prn", "aux", "nul", *(f"{stem}{n}" for stem in ("com", "lpt") for n in range(1, 10))]
)


StrPath: TypeAlias = str | Path


class DamagedFileError(ValueError):
    """A file is there but damaged; ``path`` and ``problem`` say where and why."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class UnsafeNameError(ValueError):
    """A file name that could lead out of its folder, or that means something else on some file system."""


class FileSystem(Protocol):
    """The five operations of a durable write. Each raises OSError when the disk refuses."""

    def write(self, path: Path, data: bytes) -> None:
        """Create ``path``, which must not exist, for its owner only, and fill it."""

    def fsync(self, path: Path) -> None:
        """Force a file's content, or a folder's entries, to the disk."""

    def rename(self, source: Path, target: Path) -> None:
        """Give ``source`` the name ``target`` in one step; a file under that name is replaced."""

    def unlink(self, path: Path) -> None:
        """Remove a file."""

    def mkdir(self, path: Path) -> None:
        """Create a folder for its owner only; it must not exist."""


class DiskFileSystem:
    """The file system of the operating system."""

    def write(self, path: Path, data: bytes) -> None:
        """Create and fill one file, mode 0600; a half-written one is removed before the error leaves."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def fsync(self, path: Path) -> None:
        """Force one file or folder to the disk. Not retried: after a failed fsync the kernel may drop the data."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Rename in one step."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Remove one file."""
        path.unlink()

    def mkdir(self, path: Path) -> None:
        """Create one folder, mode 0700."""
        path.mkdir(mode=0o700)


@dataclass
class CrashingFileSystem:
    """A real file system that kills its process just before operation ``crash_at`` (counted from 1)."""

    crash_at: int
    inner: FileSystem = field(default_factory=DiskFileSystem)
    done: int = 0

    def _count(self) -> None:
        self.done += 1
        if self.done == self.crash_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, path: Path, data: bytes) -> None:
        """Count, then write."""
        self._count()
        self.inner.write(path, data)

    def fsync(self, path: Path) -> None:
        """Count, then fsync."""
        self._count()
        self.inner.fsync(path)

    def rename(self, source: Path, target: Path) -> None:
        """Count, then rename."""
        self._count()
        self.inner.rename(source, target)

    def unlink(self, path: Path) -> None:
        """Count, then unlink."""
        self._count()
        self.inner.unlink(path)

    def mkdir(self, path: Path) -> None:
        """Count, then mkdir."""
        self._count()
        self.inner.mkdir(path)


def file_system(protocol: str) -> FileSystem:
    """Return the disk, or one that crashes when ``TUNESMITH_CRASHPOINT`` names this protocol (``save:3``)."""
    named, _, count = os.environ.get(CRASHPOINT, "").partition(":")
    return _crashing(protocol, int(count)) if named == protocol else DiskFileSystem()


@cache
def _crashing(_protocol: str, crash_at: int) -> CrashingFileSystem:
    return CrashingFileSystem(crash_at)


# --- whole files ------------------------------------------------------------------------------------------


def write_bytes_durably(path: Path, data: bytes, *, fs: FileSystem | None = None) -> None:
    """Put ``data`` under ``path`` so that any crash leaves the old content or the new, never a mixture.

    Staged beside the target under an unpredictable name, fsynced, renamed, folder fsynced. Raises OSError;
    nothing is left behind then and the old content stands.
    """
    fs = fs or file_system("state")
    staged = temporary_name(path)
    try:
        fs.write(staged, data)
        fs.fsync(staged)
        fs.rename(staged, path)
    except OSError:
        staged.unlink(missing_ok=True)
        raise
    fs.fsync(path.parent)


def write_text_durably(path: Path, text: str, *, fs: FileSystem | None = None) -> None:
    """Like ``write_bytes_durably``, for text, as UTF-8."""
    write_bytes_durably(path, text.encode("utf-8"), fs=fs)


def write_json_durably(path: Path, value: object, *, fs: FileSystem | None = None) -> None:
    """Like ``write_text_durably``, for a JSON value. Raises ValueError for NaN or infinity."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text_durably(path, text + "\n", fs=fs)


def read_json(path: StrPath, *, limit_bytes: int = JSON_LIMIT_BYTES) -> object:
    """The JSON value in ``path``. Raises DamagedFileError (cut short, not UTF-8, NaN, too big) or OSError."""
    data = read_bytes(path, limit_bytes=limit_bytes + 1)
    if len(data) > limit_bytes:
        raise DamagedFileError(Path(path), f"it is larger than {limit_bytes} bytes")
    try:
        return parse_json(data)
    except ValueError as error:
        raise DamagedFileError(Path(path), f"it is not complete JSON ({error})") from error


def read_bytes(path: StrPath, *, limit_bytes: int = JSON_LIMIT_BYTES) -> bytes:
    """Return the first ``limit_bytes`` of a file.

    Small files are read without a stream object: a listing of runs reads fifty thousand of them.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, min(limit_bytes, _SMALL_BYTES))
        if len(data) == _SMALL_BYTES:
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                data += stream.read(limit_bytes - _SMALL_BYTES)
    finally:
        os.close(descriptor)
    return data


def last_bytes(path: StrPath, count: int) -> tuple[bytes, bool]:
    """Return the last ``count`` bytes of a file and True if that is all of it; ``(b"", True)`` if unreadable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b"", True
    try:
        before = max(0, os.fstat(descriptor).st_size - count)
        return os.pread(descriptor, count, before), before == 0
    except OSError:
        return b"", True
    finally:
        os.close(descriptor)


def read_json_object(path: StrPath) -> dict[str, object]:
    """Like ``read_json``, for a file that must hold one JSON object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DamagedFileError(Path(path), "it holds no JSON object")
    return value


def parse_json(data: bytes) -> object:
    """Return the JSON value in ``data``. Raises ValueError, also for NaN, bad UTF-8 and over 1,024 levels."""
    return cast("object", orjson.loads(data))


# --- names, hashes, space, folders ------------------------------------------------------------------------


def safe_join(root: Path, name: str) -> Path:
    """``root/name`` for a plain name of letters, digits, dot, dash and underscore (at most 64).

    Raises UnsafeNameError for anything else: empty, a path, a hidden or reserved name, a percent-encoded
    path, a trailing dot, or a link that leads out of ``root``.
    """
    decoded = unquote(unquote(name))
    stem = decoded.split(".")[0].lower()
    plain = bool(_SAFE_NAME.match(name)) and decoded == name and not name.endswith("\n")
    if not plain or name.startswith(".") or name.endswith(".") or stem in _RESERVED:
        raise UnsafeNameError(f"{name!r} is not a plain name")
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise UnsafeNameError(f"{name!r} leads out of {root}")
    return path


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_under(folder: StrPath) -> dict[str, os.stat_result]:
    """Return the files in ``folder`` and below by relative name with ``/``, sorted; links are not followed.

    Files that disappear meanwhile are left out, and so are folders that are missing or cannot be read.
    """
    found: dict[str, os.stat_result] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for path in (os.path.join(place, name) for name in sorted(names)):  # noqa: PTH118 - many files, so text
            with contextlib.suppress(OSError):
                found[os.path.relpath(path, folder).replace(os.sep, "/")] = os.lstat(path)
    return found


def modified_ns(path: StrPath) -> int:
    """Return the modification time of ``path`` in nanoseconds, 0 if it is gone, so that a list can be sorted."""
    try:
        return os.lstat(path).st_mtime_ns
    except OSError:
        return 0


def free_bytes(path: Path) -> int:
    """Return how many bytes this user may still write on the file system of ``path``."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def temporary_name(path: Path) -> Path:
    """Return a new hidden name beside ``path``; what a crash leaves under it goes with ``sweep_temporaries``."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


@contextlib.contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """Yield a new folder beside a path, for its owner only, that is gone afterwards."""
    folder = temporary_name(beside)
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def staged_folder(final: Path, *, fs: FileSystem | None = None) -> Iterator[Path]:
    """Yield a folder beside ``final``, for its owner only, that takes its name at the end and is removed on failure.

    Raises FileExistsError when ``final`` exists by then, OSError when the disk refuses.
    """
    with scratch_folder(final) as staging:
        yield staging
        publish_folder(staging, final, fs=fs)


def publish_folder(staging: Path, final: Path, *, fs: FileSystem | None = None) -> None:
    """Make ``staging`` appear as ``final``, whole and durable, or not at all.

    Fsyncs every file and folder inside, renames, fsyncs the parent. Raises FileExistsError when ``final``
    exists and OSError when the disk refuses; ``staging`` is left to the caller then.
    """
    fs = fs or file_system("save")
    if final.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
    for path in sorted(staging.rglob("*"), reverse=True):
        fs.fsync(path)
    fs.fsync(staging)
    fs.rename(staging, final)
    fs.fsync(final.parent)


def remove_folder(path: Path, *, fs: FileSystem | None = None) -> None:
    """Delete a folder by renaming it to a temporary name first, so that a crash never leaves half of it.

    Raises NotADirectoryError for a file or a link.
    """
    fs = fs or file_system("delete")
    if path.is_symlink() or not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    aside = temporary_name(path)
    fs.rename(path, aside)
    fs.fsync(path.parent)
    _purge(aside)


def sweep_temporaries(folder: Path, *, older_than_seconds: float = 3600.0) -> list[Path]:
    """Remove temporary files of crashed writers from ``folder``, if it exists; return the removed paths.

    A folder that a process holds (``lock_utils.hold_folder``) is still being written or deleted, and stays.
    """
    horizon = time.time() - older_than_seconds
    swept = [path for path in _temporaries(folder) if _is_abandoned(path, horizon)]
    for path in swept:
        _purge(path)
    return swept


def _is_abandoned(path: Path, horizon: float) -> bool:
    try:
        return path.lstat().st_mtime <= horizon and (path.is_symlink() or not is_folder_held(path))
    except OSError:  # another process swept it away
        return False


def _purge(path: Path) -> None:
    """Remove a file or a whole folder, also while another process removes it too."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        shutil.rmtree(path, ignore_errors=True)


def _temporaries(folder: Path) -> Iterator[Path]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return (path for path in paths if _TEMPORARY.match(path.name))
