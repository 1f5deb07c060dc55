"""Tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from backend.commands.output import visible

READABLE = 8
"""Characters that a column has at least where it wraps."""


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    whole: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """A table for a person; cells are text and are never read as markup.

    The columns in ``whole`` never wrap. Where the screen is too narrow, those in ``spare`` are left out one by one;
    if that is not enough, the first column wraps after all.
    """
    console = Console()
    lines = list(rows)
    kept = [(column, [row[place] for row in lines]) for place, column in enumerate(columns)]
    for column in spare:
        if _needed(kept, whole) > console.width:
            kept = [each for each in kept if each[0] != column]
    fits = _needed(kept, whole) <= console.width
    drawn = Table(title=title or None, title_justify="left", title_style="bold")
    for place, (column, _) in enumerate(kept):
        drawn.add_column(visible(column), overflow="fold", no_wrap=column in whole and (fits or place > 0))
    for row in zip(*(cells for _, cells in kept), strict=True):
        drawn.add_row(*(Text(visible(cell)) for cell in row))
    console.print(drawn)


def _needed(columns: Sequence[tuple[str, Sequence[str]]], whole: Sequence[str]) -> int:
    """The width of a table with borders, in characters, whose columns that may wrap are as narrow as can be read."""
    widths = [max(map(cell_len, (name, *cells))) if name in whole else READABLE for name, cells in columns]
    return sum(widths) + 3 * len(widths) + 1
