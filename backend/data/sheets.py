"""XLSX workbooks, one sheet as a table. Needs openpyxl (the extra ``tunesmith[xlsx]``)."""

from __future__ import annotations

import datetime
import importlib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import ParseError

from backend.data.archives import Allowance
from backend.data.records import Record, Rejected
from backend.errors import DataError

# What openpyxl, zipfile and the XML parser raise on a damaged workbook.
_DAMAGE = (
    *(
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        OSError,
        EOFError,
        ParseError,
        RuntimeError,
    ),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, NotImplementedError, AssertionError),
)


def is_workbook(archive: zipfile.ZipFile) -> bool:
    """Whether a ZIP archive is an XLSX workbook."""
    return "xl/workbook.xml" in archive.namelist()


def read_workbook(
    stream: Any, name: str, sheet: str | None, allowance: Allowance
) -> Iterator[Record | Rejected]:
    """The rows under the first row of a sheet (default: the first); places are the sheet's own row numbers.

    Text cells are the text given; numbers and dates are spelled out (a formula is its last result). Raises
    ``DataError`` when openpyxl is missing, the sheet does not exist or the workbook is damaged.
    """
    try:
        openpyxl = importlib.import_module("openpyxl")
    except ImportError:
        raise DataError(
            f"{name} is an Excel workbook, and reading those needs the package openpyxl.",
            remedy='Install it with: pip install "tunesmith[xlsx]" – or save the sheet as CSV.',
            code="missing-extra",
        ) from None
    try:
        _check_size(stream, name, allowance)
        book = openpyxl.load_workbook(stream, read_only=True, data_only=True, keep_links=False)
        try:
            yield from _rows(_sheet(book, sheet, name), name)
        finally:
            book.close()
    except _DAMAGE as error:
        raise DataError(
            f"{name} is no workbook that can be read: {error}.",
            remedy="Open it in a spreadsheet and save it as XLSX or CSV.",
            code="damaged-file",
        ) from None


def _check_size(stream: Any, name: str, allowance: Allowance) -> None:
    with zipfile.ZipFile(stream) as archive:
        allowance.spend(sum(member.file_size for member in archive.infolist()), name)
    stream.seek(0)


def _sheet(book: Any, wanted: str | None, name: str) -> Any:
    titles = [sheet.title for sheet in book.worksheets]
    if wanted is None and titles:
        return book.worksheets[0]
    if wanted not in titles:
        raise DataError(
            f"{name} has no sheet {wanted!r}.",
            remedy=f"Its sheets are: {', '.join(titles) or '(none)'}.",
            code="unknown-sheet",
        )
    return book[wanted]


def _rows(sheet: Any, name: str) -> Iterator[Record | Rejected]:
    header: list[str] = []
    for number, values in enumerate(sheet.iter_rows(values_only=True), 1):
        cells = [_text(value) for value in values]
        if all(cell is None for cell in cells):
            continue
        if not header:
            header = _header(cells, name)
            continue
        extra = [cell for cell in cells[len(header) :] if cell is not None]
        if extra:
            yield Rejected(
                f"{name}:{number}", f"the row has more cells than the header's {len(header)}", extra[0]
            )
        else:
            padded = cells[: len(header)] + [None] * (len(header) - len(cells))
            yield Record(f"{name}:{number}", dict(zip(header, padded, strict=True)))


def _header(cells: list[str | None], name: str) -> list[str]:
    while cells and cells[-1] is None:
        cells = cells[:-1]
    names = [(cell or "").strip() or f"column {number}" for number, cell in enumerate(cells, 1)]
    if len(set(names)) < len(names):
        twice = next(each for each in names if names.count(each) > 1)
        raise DataError(
            f"{name} names the column {twice!r} twice.", remedy="Rename one of them.", code="bad-header"
        )
    return names


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return repr(value) if isinstance(value, int | float) else str(value)
