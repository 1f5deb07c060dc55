"""Read compressed files and archives, known by their first bytes, without unpacking them to disk.

Members are streamed, so a name such as ``../x`` could do no harm; such an archive is refused all the same, since it
was made to attack. A stream that unpacks to far more than its size is stopped.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import posixpath
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from backend.data.locate import choose
from backend.data.records import Skipped
from backend.errors import DataError
from backend.utils.text_utils import writable

HEAD_BYTES = 65_536
MAX_MEMBERS = 10_000
FREE_BYTES = 256 * 2**20
MAX_RATIO = 200

_MAGIC = ((b"\x1f\x8b", "gzip"), (b"BZh", "bz2"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))
_ENDINGS = {"gzip": (".gz", ".gzip"), "bz2": (".bz2",), "xz": (".xz",), "zstd": (".zst", ".zstd")}
_SHORT = {".tgz": ".tar", ".tbz": ".tar", ".tbz2": ".tar", ".txz": ".tar", ".tzst": ".tar"}

Stream = io.BufferedReader  # of bytes, with peek


def compression(head: bytes) -> str | None:
    """Return gzip, bz2, xz or zstd if ``head`` begins like one, else None."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def is_tar(head: bytes) -> bool:
    """Return whether ``head`` (at least 512 bytes of it) is the beginning of a tar archive."""
    return head[257:262] == b"ustar"


def is_zip(head: bytes) -> bool:
    """Return whether ``head`` is the beginning of a ZIP archive (XLSX files are such archives too)."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def decompressed(stream: Stream[Any], kind: str, name: str, allowance: Allowance) -> Stream[Any]:
    """Return the decompressed stream; ``kind`` as ``compression`` returns it."""
    opened: Any
    if kind == "gzip":
        opened = gzip.GzipFile(fileobj=stream, mode="rb")
    elif kind == "bz2":
        opened = _Streams(stream, bz2.BZ2Decompressor)
    elif kind == "xz":
        opened = _Streams(stream, lzma.LZMADecompressor)
    else:
        opened = pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")
    return guarded(opened, name, allowance)


def seekable(stream: Stream[Any]) -> Any:
    """Return the stream itself if it can seek, else a copy of it in an unnamed temporary file."""
    if stream.seekable():
        return nullcontext(stream)
    copy = tempfile.TemporaryFile()  # noqa: SIM115  # closed by the caller
    try:
        shutil.copyfileobj(stream, copy, 1 << 20)
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    return copy


class Allowance:
    """The number of bytes that may still come out of one compressed file; shared by all members of an archive."""

    def __init__(self, compressed_bytes: int) -> None:
        self.total = max(FREE_BYTES, MAX_RATIO * compressed_bytes)
        self.left = self.total

    def spend(self, count: int, name: str) -> None:
        """Subtract ``count`` bytes; raises ``DataError`` when none are left."""
        self.left -= count
        if self.left < 0:
            raise DataError(
                f"{name} unpacks to more than {self.total:,} bytes, over {MAX_RATIO} times its size.",
                remedy="It looks like a decompression bomb; unpack it yourself if you trust it.",
                code="archive-too-large",
            )


def guarded(raw: Any, name: str, allowance: Allowance) -> Stream[Any]:
    """Return a buffered stream over ``raw`` that spends ``allowance`` and raises ``DataError`` on damage."""
    return io.BufferedReader(_Guarded(raw, name, allowance), HEAD_BYTES)


class _Streams:
    """Compressed streams one after the other, as bz2 and xz files may hold them.

    The standard library's readers silently ignore anything that follows a stream and is not one, and all rows after
    it; here that is damage. Zero bytes may follow: xz pads with them.
    """

    def __init__(self, raw: Any, new: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]) -> None:
        self._raw = raw
        self._new = new
        self._decoder = new()
        self._given = b""

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most ``size``, none at the end. Raises OSError, LZMAError, EOFError on damage."""
        while not self._decoder.eof or self._next():
            given, self._given = self._given, b""
            if self._decoder.needs_input and not given and not (given := self._raw.read(HEAD_BYTES)):
                raise EOFError("it ends before the end of its last stream")
            if chunk := self._decoder.decompress(given, size):
                return chunk
        return b""

    def close(self) -> None:
        """Do nothing: the file belongs to the caller."""

    def _next(self) -> bool:
        """Start the stream that follows and return True, or return False at the end."""
        behind = self._decoder.unused_data.lstrip(b"\0")
        while not behind and (more := self._raw.read(HEAD_BYTES)):
            behind = more.lstrip(b"\0")
        self._decoder, self._given = (self._new(), behind) if behind else (self._decoder, b"")
        return bool(behind)


class _Guarded(io.RawIOBase):
    def __init__(self, raw: Any, name: str, allowance: Allowance) -> None:
        self._raw = raw
        self._name = name
        self._allowance = allowance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        filled = 0
        with damage_named(self._name):
            while filled < len(view) and (chunk := self._raw.read(len(view) - filled)):
                view[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
        self._allowance.spend(filled, self._name)
        return filled

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


@contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Turn the errors of decompressors into a ``DataError`` that names the file."""
    try:
        yield
    except (
        EOFError,
        OSError,
        lzma.LZMAError,
        zlib.error,
        tarfile.TarError,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        raise DataError(
            f"{name} is damaged or incomplete: {error}.",
            remedy="Copy or download it again.",
            code="damaged-archive",
        ) from None
    except RuntimeError as error:  # zipfile raises this for an encrypted member
        raise DataError(
            f"{name} cannot be unpacked: {error}.",
            remedy="Unpack it yourself and name the data file in it.",
            code="encrypted-archive",
        ) from None


def zip_members(
    stream: Stream[Any], name: str, allowance: Allowance, split: str | None = None
) -> Iterator[tuple[str, Stream[Any]] | Skipped]:
    """Yield each file of a ZIP archive as (name, open stream); a stream is closed at the next step.

    ``locate.choose`` decides which files are read and which skipped, as in a folder.
    """
    with damage_named(name):
        archive = zipfile.ZipFile(stream)
    with archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        skipped = _skipped(name, [member.filename for member in members], split)
        for member in members:
            place = writable(f"{name}/{member.filename}")
            if stat.S_ISLNK(member.external_attr >> 16):  # the Unix file mode is in the upper half
                yield Skipped(place, "a link, not a file")
            elif member.filename in skipped:
                yield Skipped(place, skipped[member.filename])
            else:
                with damage_named(place):
                    raw = archive.open(member)
                with guarded(raw, place, allowance) as opened:
                    yield place, opened


def tar_members(
    stream: Stream[Any], name: str, allowance: Allowance, split: str | None = None
) -> Iterator[tuple[str, Stream[Any]] | Skipped]:
    """Yield each file of a tar archive as ``zip_members`` does; ``stream`` must be able to seek."""
    with damage_named(name):
        archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115  # used below
    with archive:
        members = [member for member in _tar_entries(archive, name) if not member.isdir()]
        skipped = _skipped(name, [member.name for member in members], split)
        for member in members:
            place = writable(f"{name}/{member.name}")
            if not member.isreg():
                yield Skipped(place, "a link or device, not a file")
            elif member.name in skipped:
                yield Skipped(place, skipped[member.name])
            else:
                with damage_named(place):
                    raw = archive.extractfile(member)
                with guarded(raw, place, allowance) as opened:
                    yield place, opened


def _tar_entries(archive: tarfile.TarFile, name: str) -> list[tarfile.TarInfo]:
    found: list[tarfile.TarInfo] = []
    while len(found) <= MAX_MEMBERS:
        with damage_named(name):
            member = archive.next()
        if member is None:
            break
        found.append(member)
    return found


def _skipped(archive: str, names: list[str], split: str | None) -> dict[str, str]:
    """Return the files of an archive that are not read, each with the reason."""
    _check_members(archive, names)
    return {each.place: each.reason for each in choose(names, split)[1]}


def _check_members(archive: str, names: list[str]) -> None:
    if len(names) > MAX_MEMBERS:
        raise DataError(
            f"{archive} holds more than {MAX_MEMBERS:,} files.",
            remedy="Unpack it yourself and name the folder.",
            code="archive-too-large",
        )
    for name in names:
        path = posixpath.normpath(name.replace("\\", "/"))
        if path.startswith(("/", "../")) or path == ".." or re.match(r"[A-Za-z]:", path) or "\0" in name:
            raise DataError(
                f"{archive} holds the file {name!r}, which points outside of the archive.",
                remedy="Do not use this archive; it was made to write where it should not.",
                code="unsafe-archive",
            )


def inner_name(name: str, kind: str) -> str:
    """Return the name without the suffix of its compression (``.tgz`` becomes ``.tar``)."""
    for ending in _ENDINGS[kind]:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    for short, long in _SHORT.items():
        if name.lower().endswith(short):
            return name[: -len(short)] + long
    return name
