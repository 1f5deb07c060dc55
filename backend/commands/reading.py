"""The options that say how rows are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from backend.data.sources import ReadOptions

Rows = Annotated[str, Parameter(help="Rows: a file, folder, pattern, archive or hub id, as data.train.")]
Columns = Annotated[
    dict[str, str] | None,
    Parameter(
        name=("--columns", "--data.columns"),
        help="Names of your columns by role: --columns.prompt question.",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Reading:
    """Settings that say how a file is read, where it does not say so itself; named as those under ``data``."""

    encoding: Annotated[
        str | None,
        Parameter(name=("--encoding", "--data.encoding"), help="Encoding of text files, such as cp1252."),
    ] = None
    delimiter: Annotated[
        str | None,
        Parameter(
            name=("--delimiter", "--data.delimiter"), help="What separates the cells of a table, such as ;"
        ),
    ] = None
    sheet: Annotated[
        str | None, Parameter(name=("--sheet", "--data.sheet"), help="The sheet of a workbook to read.")
    ] = None
    whole_file: Annotated[
        bool,
        Parameter(
            name=("--whole-file", "--data.whole-file", "--data.whole_file"),
            negative=(),
            help="One row for each text file.",
        ),
    ] = False

    def options(self) -> ReadOptions:
        """Return them as the readers take them. Raises DataError on an unknown encoding or delimiter."""
        return ReadOptions(self.encoding, self.delimiter, self.whole_file, self.sheet)

    def words(self) -> list[str]:
        """Return those that are set as words of a command line."""
        given = {"encoding": self.encoding, "delimiter": self.delimiter, "sheet": self.sheet}
        words = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
        return [*words, *(["--whole-file"] * self.whole_file)]


AS_THE_FILE_SAYS = Reading()


def column_words(columns: Mapping[str, str] | None) -> list[str]:
    """Return a column map as words of a command line."""
    return [word for part, name in (columns or {}).items() for word in (f"--columns.{part}", name)]
