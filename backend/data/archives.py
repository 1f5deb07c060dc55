"""Compressed files and archives, known by their first bytes and read without writing anything to disk.

Members are streamed, so a name that points elsewhere could do no harm; such an archive is still refused, because
it was not made in good faith. A stream that swells beyond all proportion is stopped.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import posixpath
import re
import shutil
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
    """gzip, bz2, xz or zstd when ``head`` begins like one, else None."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def is_tar(head: bytes) -> bool:
    """Return whether ``head`` (at least 512 bytes of it) is the beginning of a tar archive."""
    return head[257:262] == b"ustar"


def is_zip(head: bytes) -> bool:
    """Return whether ``head`` is the beginning of a ZIP archive (XLSX files are such archives too)."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def decompressed(stream: Stream[Any], kind: str, name: str, allowance: Allowance) -> Stream[Any]:
    """The stream without its compression (``kind`` as ``compression`` says it)."""
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
    """The stream itself when it can be sought in, else a copy of it in an unnamed temporary file."""
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
    """How many bytes may still come out of one compressed file; shared by all members of an archive."""

    def __init__(self, compressed_bytes: int) -> None:
        self.total = max(FREE_BYTES, MAX_RATIO * compressed_bytes)
        self.left = self.total

    def spend(self, count: int, name: str) -> None:
        """Take ``count`` bytes off; raises ``DataError`` when none are left."""
        self.left -= count
        if self.left < 0:
            raise DataError(
                f"{name} unpacks to more than {self.total:,} bytes, over {MAX_RATIO} times its size.",
                remedy="It looks like a decompression bomb; unpack it yourself if you trust it.",
                code="archive-too-large",
            )


def guarded(raw: Any, name: str, allowance: Allowance) -> Stream[Any]:
    """A buffered stream over ``raw`` that spends ``allowance`` and says so when the bytes are damaged."""
    return io.BufferedReader(_Guarded(raw, name, allowance), HEAD_BYTES)


class _Streams:
    """Compressed streams one behind the other, as bz2 and xz files may hold them.

    The standard library's readers leave out what follows a stream and is none, with all rows behind it; here that is
    damage. Zero bytes may follow: xz pads with them.
    """

    def __init__(self, raw: Any, new: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]) -> None:
        self._raw = raw
        self._new = new
        self._decoder = new()
        self._given = b""

    def read(self, size: int) -> bytes:
        """The next bytes, at most ``size``; none at the end. Raises OSError, LZMAError and EOFError on damage."""
        while not self._decoder.eof or self._next():
            given, self._given = self._given, b""
            if self._decoder.needs_input and not given and not (given := self._raw.read(HEAD_BYTES)):
                raise EOFError("it ends before the end of its last stream")
            if chunk := self._decoder.decompress(given, size):
                return chunk
        return b""

    def close(self) -> None:
        """Leave the file open: it belongs to the caller."""

    def _next(self) -> bool:
        """Go on to the stream that follows, if one does."""
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
    """Turn what the decompressors raise into a ``DataError`` that names the file."""
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
    except RuntimeError as error:  # zipfile's answer to an encrypted member
        raise DataError(
            f"{name} cannot be unpacked: {error}.",
            remedy="Unpack it yourself and name the data file in it.",
            code="encrypted-archive",
        ) from None


def zip_members(
    stream: Stream[Any], name: str, allowance: Allowance, split: str | None = None
) -> Iterator[tuple[str, Stream[Any]] | Skipped]:
    """Each file of a ZIP archive as (name, open stream), in order; the stream ends with the next step.

    Which files are read and which left aside is said by ``choose``, as in a folder.
    """
    with damage_named(name):
        archive = zipfile.ZipFile(stream)
    with archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        aside = _left_aside(name, [member.filename for member in members], split)
        for member in members:
            place = writable(f"{name}/{member.filename}")
            if (member.external_attr >> 16) & 0o170000 == 0o120000:
                yield Skipped(place, "a link, not a file")
            elif member.filename in aside:
                yield Skipped(place, aside[member.filename])
            else:
                with damage_named(place):
                    raw = archive.open(member)
                with guarded(raw, place, allowance) as opened:
                    yield place, opened


def tar_members(
    stream: Stream[Any], name: str, allowance: Allowance, split: str | None = None
) -> Iterator[tuple[str, Stream[Any]] | Skipped]:
    """Each file of a tar archive as ``zip_members`` gives it; ``stream`` can be sought in."""
    with damage_named(name):
        archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115  # used below
    with archive:
        members = [member for member in _tar_entries(archive, name) if not member.isdir()]
        aside = _left_aside(name, [member.name for member in members], split)
        for member in members:
            place = writable(f"{name}/{member.name}")
            if not member.isreg():
                yield Skipped(place, "a link or device, not a file")
            elif member.name in aside:
                yield Skipped(place, aside[member.name])
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


def _left_aside(archive: str, names: list[str], split: str | None) -> dict[str, str]:
    """The files of an archive that are not read, each with the reason."""
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
    """The name without the ending that says how it is compressed (``.tgz`` becomes ``.tar``)."""
    for ending in _ENDINGS[kind]:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    for short, long in _SHORT.items():
        if name.lower().endswith(short):
            return name[: -len(short)] + long
    return name
