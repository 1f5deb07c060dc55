"""Read one sheet of an XLSX workbook as a table. Needs openpyxl (the extra ``tunesmith[xlsx]``)."""

from __future__ import annotations

import datetime
import importlib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import chain, islice, pairwise
from typing import Any
from xml.etree.ElementTree import ParseError

from backend.data.archives import Allowance
from backend.data.families import COLUMN_NAMES
from backend.data.records import Record, Rejected, Skipped, excerpt
from backend.errors import DataError
from backend.utils.text_utils import shorten

WIDEST_GAP = 50
"""The header ends before a gap of more empty cells than this."""

# The errors of openpyxl, zipfile and the XML parser on a damaged workbook.
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
    """Return whether a ZIP archive is an XLSX workbook."""
    return "xl/workbook.xml" in archive.namelist()


def read_workbook(
    stream: Any, name: str, sheet: str | None, allowance: Allowance, limit: int = 16_000_000
) -> Iterator[Record | Rejected | Skipped]:
    """Yield the rows below the header of a sheet (default: the first that is not hidden).

    Places are the sheet's own row numbers; ``limit`` is the most characters one row may have. A title above the
    header, cells far to the right of it, and the other sheets come out as ``Skipped``.

    Text cells stay as they are; numbers and dates become text (a formula its last result). Raises ``DataError`` when
    openpyxl is missing, the sheet does not exist or the workbook is damaged.
    """
    try:
        openpyxl = importlib.import_module("openpyxl")
    except ImportError:
        raise DataError(
            f"{name} is an Excel workbook, and reading those needs the package openpyxl.",
            remedy="Run: pip install openpyxl – or save the sheet as CSV.",
            code="missing-extra",
        ) from None
    try:
        _check_size(stream, name, allowance)
        book = openpyxl.load_workbook(stream, read_only=True, data_only=True, keep_links=False)
        try:
            chosen = _sheet(book, sheet, name)
            for other in [] if sheet else book.worksheets:
                hidden = "a hidden sheet" if other.sheet_state != "visible" else "another sheet"
                if other is not chosen:
                    yield Skipped(f"{name}/{other.title}", f"{hidden}; data.sheet names the one to read")
            yield from _rows(chosen, name, limit)
        finally:
            book.close()
    except _DAMAGE as error:
        raise DataError(
            f"{name} is not a readable workbook: {error}.",
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
        visible = (each for each in book.worksheets if each.sheet_state == "visible")
        return next(visible, book.worksheets[0])
    if wanted not in titles:
        raise DataError(
            f"{name} has no sheet {wanted!r}.",
            remedy=f"Its sheets are: {', '.join(titles) or '(none)'}.",
            code="unknown-sheet",
        )
    return book[wanted]


def _rows(sheet: Any, name: str, limit: int) -> Iterator[Record | Rejected | Skipped]:
    sheet.reset_dimensions()  # the stored size of a sheet may include a million empty rows
    texts = ([_text(value) for value in values] for values in sheet.iter_rows(values_only=True))
    rows = (
        (number, cells) for number, cells in enumerate(texts, 1) if any(cell is not None for cell in cells)
    )
    first = list(islice(rows, 2))
    if len(first) == 2 and _is_title(first[0][1], first[1][1]):
        number, cells = first.pop(0)
        yield Skipped(f"{name}:{number}", f"a title, {shorten(str(cells[0]), 60)!r}")
    header: list[str] = []
    if first:
        number, cells = first.pop(0)
        width = _width(cells)
        if stray := [cell for cell in cells[width:] if cell is not None]:
            yield Skipped(f"{name}:{number}", f"far to the right of the header: {shorten(stray[0], 60)!r}")
        header = _header(cells[:width], name)
    for number, cells in chain(first, rows):
        yield _row(f"{name}:{number}", cells, header, limit)


def _row(place: str, cells: list[str | None], header: list[str], limit: int) -> Record | Rejected:
    extra = [cell for cell in cells[len(header) :] if cell is not None]
    if extra:
        return Rejected(place, f"the row has more cells than the header's {len(header)}", excerpt(extra[0]))
    if sum(len(cell) for cell in cells if cell) > limit:
        return Rejected(place, f"the row has more than {limit:,} characters")
    padded = cells[: len(header)] + [None] * (len(header) - len(cells))
    return Record(place, dict(zip(header, padded, strict=True)))


def _width(cells: list[str | None]) -> int:
    """Return the number of columns of a header, which ends before a gap of more than ``WIDEST_GAP`` empty cells."""
    named = [column for column, cell in enumerate(cells) if cell is not None]
    gaps = (left + 1 for left, right in pairwise(named) if right - left > WIDEST_GAP)
    return next(gaps, named[-1] + 1 if named else 0)


def _is_title(cells: list[str | None], below: list[str | None]) -> bool:
    """Return whether a row is a title: only its first cell is filled, with no known column name, and names follow."""
    alone = bool(cells) and cells[0] is not None and cells.count(None) == len(cells) - 1
    return alone and str(cells[0]).strip().lower() not in COLUMN_NAMES and len(below) - below.count(None) > 1


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
