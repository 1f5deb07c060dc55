"""Read CSV, TSV and similar tables; every cell stays the text it is.

The delimiter is found from the first rows. A row whose quotes do not close or whose width is wrong is refused alone:
the lines that it took in are read again one by one.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from backend.data.exact_json import surrogate_reason
from backend.data.families import COLUMN_NAMES
from backend.data.lines import Line, bounded_lines, without_ending
from backend.data.records import Record, Rejected, Skipped, excerpt
from backend.errors import DataError
from backend.utils.text_utils import counted, shorten

DELIMITERS = (",", "\t", ";", "|")

# Excel writes and reads such a line above the header, so that the table opens under every locale.
_SEPARATOR = re.compile(r"sep=([^\r\n])\r?\n", re.IGNORECASE)

# Quoted cells over several lines are common in CSV files and rare in tables with tabs.
_SUSPICIOUS_LINES = 20
_SUSPICIOUS_LINES_WITH_TABS = 2


def read_table(
    stream: TextIO, head: str, name: str, limit: int, *, delimiter: str | None = None
) -> Iterator[Record | Rejected | Skipped]:
    """Yield the rows of a delimited text with a header line, each cell as given.

    ``head`` is the beginning of the file, from which the delimiter (unless given) and the use of quotes are found. A
    line such as ``sep=;`` above the header names the delimiter; it and titles above the header come out as
    ``Skipped``. ``limit`` is the most characters one row may have. Raises ``DataError`` for a header that names a
    column twice and for a file without a header.
    """
    csv.field_size_limit(sys.maxsize)  # one limit for the whole process; _TableReader enforces that of a row
    lines = bounded_lines(stream, limit)
    named = _SEPARATOR.match(head)
    if named:
        next(lines)
        yield Skipped(f"{name}:1", f"it names the delimiter {named[1]!r}")
    bare, sample = _bare_title(_sample_lines(head[named.end() if named else 0 :]))
    chosen = delimiter or (named[1] if named else _find_delimiter(sample))
    dialect = _dialect(chosen, quotes=_quotes_quote(sample, chosen))
    rarely_quoted = chosen == "\t" and not (sample and sample[0].startswith('"'))
    reader = _TableReader(lines, name, limit, dialect, rarely_quoted=rarely_quoted)
    for title in [*bare, *_titles(_parse(sample, dialect))]:
        place = reader.skip()
        if title:
            yield Skipped(place, f"a title, {shorten(title, 60)!r}")
    header = reader.header()
    yield from reader.records(header)


class _TableReader:
    """Reads rows and keeps the physical lines of the current one, so that a bad row can be read again by line.

    Quotation marks that close are trusted (RFC 4180). A row over many lines, each of which could be a row, is
    reported as ``Skipped``; with ``rarely_quoted`` (tables with tabs) it is read as separate rows.
    """

    def __init__(
        self, lines: Iterator[Line], name: str, limit: int, dialect: type[csv.Dialect], *, rarely_quoted: bool
    ) -> None:
        self._lines = lines
        self._name = name
        self._limit = limit
        self._dialect = dialect
        self._rarely_quoted = rarely_quoted
        self._taken: list[Line] = []
        self._length = 0
        self._rows = csv.reader(iter(self._next_line, None), dialect)

    def _next_row(self) -> list[str]:
        """Return the fields of the next row. Raises StopIteration, and csv.Error if too long or badly quoted."""
        self._taken.clear()
        self._length = 0
        return next(self._rows)

    def _next_line(self) -> str | None:
        line = next(self._lines, None)
        if line is None:
            return None
        self._taken.append(line)
        self._length += len(line.text)
        if self._length > self._limit and len(self._taken) > 1:
            raise csv.Error(f"a row has more than {self._limit:,} characters")
        return line.text

    def skip(self) -> str:
        """Skip the next row that is not empty and return its place."""
        while not self._next_row():
            pass
        return f"{self._name}:{self._taken[-1].number}"

    def header(self) -> tuple[str, ...]:
        """Return the column names; a column without a name gets its number."""
        fields: list[str] = []
        try:
            while not fields:
                fields = self._next_row()
        except StopIteration:
            raise _header_error(self._name, "has no header line and no rows") from None
        except csv.Error as error:
            raise _header_error(self._name, f"has a header line that cannot be read ({error})") from None
        names = tuple(field.strip() or f"column {number}" for number, field in enumerate(fields, 1))
        if len(set(names)) < len(names):
            twice = next(each for each in names if names.count(each) > 1)
            raise _header_error(self._name, f"names the column {twice!r} twice")
        if reason := surrogate_reason("".join(names)):
            raise _header_error(self._name, f"has a header line that cannot be read: {reason}")
        return names

    def records(self, header: Sequence[str]) -> Iterator[Record | Rejected | Skipped]:
        """Yield every row below the header."""
        width = len(header)
        while True:
            try:
                fields = self._next_row()
            except StopIteration:
                return
            except csv.Error:
                yield from self._one_by_one(header)
                continue
            if not fields:
                continue
            joined = self._joins_rows(width)
            if len(fields) != width or self._taken[-1].too_long or (joined and self._rarely_quoted):
                yield from self._one_by_one(header)
                continue
            if joined:
                what = f"read as one row: {len(self._taken):,} lines in quotation marks that look like rows"
                yield Skipped(f"{self._name}:{self._taken[0].number}", what)
            yield self._record(header, fields, self._taken)

    def _joins_rows(self, width: int) -> bool:
        """Return whether each line of the current row could be a row, joined by a stray quotation mark."""
        fewest = _SUSPICIOUS_LINES_WITH_TABS if self._rarely_quoted else _SUSPICIOUS_LINES
        if len(self._taken) < fewest or width < 2:
            return False
        unquoted = _dialect(self._dialect.delimiter, quotes=False)
        return all(len(row) == width for row in csv.reader([line.text for line in self._taken], unquoted))

    def _one_by_one(self, header: Sequence[str]) -> Iterator[Record | Rejected]:
        """Yield the lines of the current row, each as a row of its own."""
        for line in self._taken:
            reason = f"the line has more than {self._limit:,} characters" if line.too_long else ""
            fields: list[str] = []
            if not reason:
                fields, reason = self._alone(line.text, len(header))
            if reason:
                yield Rejected(f"{self._name}:{line.number}", reason, excerpt(without_ending(line.text)))
            elif fields:
                yield self._record(header, fields, [line])

    def _alone(self, text: str, width: int) -> tuple[list[str], str]:
        try:
            fields = next(csv.reader([text], self._dialect))
        except csv.Error:
            return [], "a quotation mark is opened and not closed, or stands inside a field unquoted"
        if fields and len(fields) != width:
            title = "; if a title stands above the names, take it away" if width == 1 else ""
            return [], f"the row has {counted(len(fields), 'field')}, but the header names {width}{title}"
        return fields, ""

    def _record(self, header: Sequence[str], fields: list[str], lines: list[Line]) -> Record | Rejected:
        place = f"{self._name}:{lines[0].number}"
        for field in fields:
            if reason := self._unfit(field):
                return Rejected(place, reason, excerpt("".join(line.text for line in lines)))
        return Record(place, dict(zip(header, fields, strict=True)))

    def _unfit(self, field: str) -> str | None:
        """Return the reason why a field cannot be used as it is, or None.

        In a table read without quoting a field may still look quoted.
        """
        unquoted = self._dialect.quoting == csv.QUOTE_NONE
        if unquoted and len(field) > 3 and field[0] == field[-1] == '"' and '""' in field[1:-1]:
            return "a field is quoted, but the first rows of the table quote none; quote the column names too"
        return None if field.isascii() else surrogate_reason(field)


def _sample_lines(head: str) -> list[str]:
    lines = list(io.StringIO(head, newline=""))
    cut = len(lines) > 2 and not lines[-1].endswith(("\n", "\r"))
    return lines[:-1] if cut else lines


def _bare_title(sample: list[str]) -> tuple[list[str], list[str]]:
    """Return a title without delimiters above the header, if any, and the lines after it.

    The first line is a title if the next one splits into column names of which one is known, and it is no such name.
    """
    for delimiter in DELIMITERS:
        rows = _parse(sample, _dialect(delimiter, quotes=True))
        names = {name.strip().lower() for name in rows[1]} if len(rows) > 2 else set()
        alone = bool(rows) and len(rows[0]) == 1 and rows[0][0].strip().lower() not in COLUMN_NAMES
        if alone and len(names) > 1 and "" not in names and COLUMN_NAMES & names:
            first = next(number for number, line in enumerate(sample) if line.strip())
            return rows[0], sample[first + 1 :]
    return [], sample


def _find_delimiter(sample: list[str]) -> str:
    """Return the delimiter by which the most rows are as wide as the header; of equals the one with most columns."""

    def score(delimiter: str) -> tuple[float, int]:
        parsed = [_parse(sample, _dialect(delimiter, quotes=quotes)) for quotes in (True, False)]
        return max((_evenness(rows) for rows in parsed), default=(0.0, 1))

    return max(DELIMITERS, key=score)


def _evenness(rows: list[list[str]]) -> tuple[float, int]:
    width = len(rows[0]) if rows else 1
    if width < 2:
        return (0.0, 1)
    return (sum(len(row) == width for row in rows) / len(rows), width)


def _quotes_quote(sample: list[str], delimiter: str) -> bool:
    """Return whether quotation marks enclose fields; not if rows get equal widths only without quoting.

    A table with tabs has no quoting (IANA's text/tab-separated-values) unless its first rows show some.
    """
    unquoted = _dialect(delimiter, quotes=False)
    fields = [field for row in _parse(sample, unquoted) for field in row if '"' in field]
    if delimiter == "\t" and not any(field.startswith('"') for field in fields):
        return False
    if _even(sample, _dialect(delimiter, quotes=True)) or not _even(sample, unquoted):
        return True
    enclosed = sum(len(field) > 1 and field[0] == field[-1] == '"' for field in fields)
    return 2 * enclosed > len(fields)


def _titles(rows: list[list[str]]) -> list[str]:
    """Return the titles above the header of a spreadsheet: rows with a text in the first cell only.

    A known column name is no title, and the header below a title has at least two names.
    """
    titles: list[str] = []
    for row in rows:
        named = sum(map(bool, row))
        if len(row) > 1 and named > 1:
            return titles
        if len(row) < 2 or (named and not row[0]) or row[0].strip().lower() in COLUMN_NAMES:
            break
        titles.append(row[0])
    return []


def _even(lines: list[str], dialect: type[csv.Dialect]) -> bool:
    rows = _parse(lines, dialect)
    return bool(rows) and all(len(row) == len(rows[0]) for row in rows)


def _parse(lines: list[str], dialect: type[csv.Dialect]) -> list[list[str]]:
    """Return the rows up to an error, which adds an empty row: it is never as wide as a header."""
    reader = csv.reader(lines, dialect)
    rows: list[list[str]] = []
    try:
        rows.extend(row for row in reader if row)
    except csv.Error:
        rows.append([])
    return rows


def _dialect(delimiter: str, *, quotes: bool) -> type[csv.Dialect]:
    settings: dict[str, Any] = {
        "delimiter": delimiter,
        "quotechar": '"' if quotes else None,
        "doublequote": True,
        "skipinitialspace": False,
        "lineterminator": "\n",
        "quoting": csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        "strict": True,
    }
    return type("TableDialect", (csv.Dialect,), settings)


def _header_error(name: str, what: str) -> DataError:
    return DataError(
        f"{name} {what}.",
        remedy="The first line must name each column once, for example: prompt,completion",
        code="bad-header",
    )
