"""Read files into records: find out what kind of file each is, and choose its reader.

Readers stream and hold one row at a time. Nothing is dropped in silence: what cannot be used comes out as
``Rejected`` with its place and reason, a file that is not read as ``Skipped``, and a file that cannot be read at all
is a ``DataError``. Compression and containers are known by their first bytes, text formats by the suffix of a name.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from backend.data import archives
from backend.data.columnar import columnar_kind, damaged_columnar, read_columnar
from backend.data.encoding_guess import ADVICE, encoding_advice
from backend.data.encodings import check_encoding, detect_encoding, is_utf8, open_text
from backend.data.files import regular_file, unreadable
from backend.data.json_files import read_json
from backend.data.json_lists import no_such_split
from backend.data.locate import SUFFIXES, DataFile, locate, split_name, split_of
from backend.data.records import Record, Rejected, Skipped
from backend.data.sheets import is_workbook, read_workbook
from backend.data.tables import read_table
from backend.data.text_files import read_text
from backend.errors import DataError

HEAD_BYTES = 65_536

Item = Record | Rejected | Skipped


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading what a file itself does not tell.

    ``encoding`` and ``delimiter`` override detection; ``whole_file`` makes one row of each text file; ``sheet`` names
    a workbook's sheet; ``max_row_characters`` is the longest row that is read.
    """

    encoding: str | None = None
    delimiter: str | None = None
    whole_file: bool = False
    sheet: str | None = None
    max_row_characters: int = 16_000_000

    def __post_init__(self) -> None:
        if self.encoding is not None:
            check_encoding(self.encoding)
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise DataError(
                f"The delimiter {self.delimiter!r} cannot separate cells.",
                remedy="Give one character, such as ; or | or a tab, and no quotation mark.",
                code="bad-delimiter",
            )


def read(path: str | Path, options: ReadOptions | None = None) -> Iterator[Item]:
    """Yield every record of a path, folder, pattern or hub id in order; a slice is not applied.

    Raises ``DataError`` when there is no readable file of a known kind, or when a file is damaged so that the rows
    after the damage cannot be read.
    """
    located = locate(path)
    yield from located.skipped
    for file in located.files:
        yield from read_file(file, options or ReadOptions())


def read_file(file: DataFile, options: ReadOptions) -> Iterator[Item]:
    """Yield every record of one file; raises ``DataError`` as ``read`` does."""
    path = regular_file(file.path)
    try:
        with io.BufferedReader(path.open("rb", buffering=0), HEAD_BYTES) as stream:
            allowance = archives.Allowance(path.stat().st_size)
            yield from _Reader(options, allowance, file.split).stream(stream, file.name, file.name, depth=0)
    except OSError as error:
        raise unreadable(path, error) from None


@dataclass(frozen=True)
class _Reader:
    """Reads a stream, which may be an archive of streams; everything unpacked from one file shares an allowance.

    ``split`` is the requested one; only the names of files, archive members and JSON lists tell splits apart.
    """

    options: ReadOptions
    allowance: archives.Allowance
    split: str | None = None

    def stream(self, stream: io.BufferedReader[Any], name: str, called: str, *, depth: int) -> Iterator[Item]:
        """Yield the records of an open stream, whose format its first bytes tell, or the suffix of ``called``.

        ``name`` is the name in places; ``called`` is that name without the suffix of a compression; ``depth`` counts
        the archives and compressions around the stream.
        """
        head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
        if not head:
            raise DataError(f"{name} is empty.", remedy="Put at least one row into it.", code="empty-file")
        _refuse_placeholder(head, name)
        kind = columnar_kind(head)
        packed = archives.compression(head)
        if (packed or archives.is_tar(head) or archives.is_zip(head)) and depth > 1:
            raise DataError(
                f"{name} is packed more than twice.", remedy="Unpack it first.", code="archive-too-deep"
            )
        if packed:
            with archives.decompressed(stream, packed, name, self.allowance) as inner:
                yield from self.stream(inner, name, archives.inner_name(called, packed), depth=depth + 1)
        elif archives.is_tar(head):
            with archives.seekable(stream) as file:
                members = archives.tar_members(file, name, self.allowance, self.split)
                yield from self._members(members, name, depth)
        elif archives.is_zip(head):
            yield from self._zip(stream, name, depth)
        elif kind:
            self._check_split(name)
            yield from self._columnar(stream, kind, name)
        else:
            yield from self._text(stream, head, name, called)

    def _split_within(self, name: str) -> str | None:
        """Return the requested split if it must be looked for inside the file; None if the name says it all."""
        return self.split if self.split and (split_of(name) or "train") != split_name(self.split) else None

    def _check_split(self, name: str) -> None:
        if split := self._split_within(name):
            raise no_such_split(name, split)

    def _zip(self, stream: io.BufferedReader[Any], name: str, depth: int) -> Iterator[Item]:
        with archives.seekable(stream) as file:
            with archives.damage_named(name), zipfile.ZipFile(file) as archive:
                workbook = is_workbook(archive)
            file.seek(0)
            if workbook:
                self._check_split(name)
                limit = self.options.max_row_characters
                yield from read_workbook(file, name, self.options.sheet, self.allowance, limit)
            else:
                members = archives.zip_members(file, name, self.allowance, self.split)
                yield from self._members(members, name, depth)

    def _members(
        self, members: Iterator[tuple[str, io.BufferedReader[Any]] | Skipped], name: str, depth: int
    ) -> Iterator[Item]:
        read_any = False
        reader = replace(self, split=None)
        for member in members:
            if isinstance(member, Skipped):
                yield member
                continue
            read_any = True
            place, opened = member
            yield from reader.stream(opened, place, place, depth=depth + 1)
        if not read_any:
            raise DataError(
                f"{name} holds no file that can be read" + (f" as {self.split}." if self.split else "."),
                remedy=f"Its files must end in one of {', '.join(SUFFIXES)}.",
                code="no-files",
            )

    def _columnar(self, stream: io.BufferedReader[Any], kind: str, name: str) -> Iterator[Item]:
        with archives.seekable(stream) as file, damaged_columnar(name):
            yield from read_columnar(file, kind, name, self.options.max_row_characters, self.allowance)

    def _text(
        self, stream: io.BufferedReader[Any], head_bytes: bytes, name: str, called: str
    ) -> Iterator[Item]:
        options = self.options
        encoding = options.encoding or detect_encoding(head_bytes)
        head = head_bytes.decode(encoding, errors="ignore")
        kind = _text_kind(name, called, head)
        if kind in ("table", "text"):
            self._check_split(name)
        newline = "\n" if kind in ("json", "jsonl") else ""
        limit = options.max_row_characters
        items: Iterator[Item]
        try:
            with open_text(stream, encoding, newline) as text:
                if kind == "table":
                    items = read_table(text, head, name, limit, delimiter=options.delimiter)
                elif kind == "text":
                    items = read_text(text, name, limit, whole_file=options.whole_file)
                else:
                    split = self._split_within(name)
                    items = read_json(text, head, name, limit, by_line=kind == "jsonl", split=split)
                yield from _advised(items, head_bytes)
        except UnicodeError as error:
            raise DataError(
                f"{name} is not in the encoding it was read in: {error}.",
                remedy=f"Save the file as UTF-8, or {encoding_advice(head_bytes)}.",
                code="bad-encoding",
            ) from None


def _advised(items: Iterator[Item], head: bytes) -> Iterator[Item]:
    """Yield the items; those refused for their encoding get advice based on the beginning of the whole file.

    A single line is too short to tell encodings apart. Where the beginning is UTF-8, the line's own advice stays.
    """
    advice = ""
    for item in items:
        if isinstance(item, Rejected) and ADVICE in item.reason:
            advice = advice or (encoding_advice(head) if not is_utf8(head) else " ")
            before, _, own = item.reason.partition(ADVICE)
            yield replace(item, reason=before + (advice.strip() or ADVICE + own))
        else:
            yield item


def _refuse_placeholder(head: bytes, name: str) -> None:
    """Raise ``DataError`` for a file that stands in for the data: a Git LFS pointer or a web page."""
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise DataError(
            f"{name} is only a Git LFS pointer; the data itself was not downloaded.",
            remedy="Run git lfs pull, or download the file itself.",
            code="not-downloaded",
        )
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise DataError(
            f"{name} is a web page, not data.",
            remedy="Download the file itself: the page may link to it, or ask you to sign in first.",
            code="not-downloaded",
        )


def _text_kind(name: str, called: str, head: str) -> str:
    kind = SUFFIXES.get(PurePosixPath(called).suffix.lower())
    if kind in ("json", "jsonl", "table", "text"):
        return kind
    if kind is None and head.lstrip()[:1] in ("{", "["):
        return "json"
    if kind is not None:
        raise DataError(
            f"{name} has the suffix of {kind}, but does not begin like it.",
            remedy="Save or download it again, or rename it after what is in it.",
            code="damaged-file",
        )
    raise DataError(
        f"{name} is of no known kind: its name ends in none of {', '.join(SUFFIXES)}.",
        remedy="Rename it after what is in it, for example train.jsonl or train.csv.",
        code="unknown-format",
    )
