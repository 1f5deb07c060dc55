"""``tunesmith data duplicates``: rows that stand more than once or nearly repeat others, in groups."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from backend.commands.options import AsJson
from backend.commands.output import print_json, say
from backend.commands.reading import AS_THE_FILE_SAYS, Columns, Reading, Rows
from backend.data.checks.repeats import MAX_NEAR_ROWS
from backend.data.cleaning import exact_duplicates, near_duplicate_rows
from backend.data.load import load_rows
from backend.data.records import Row
from backend.data.write import row_record

SHOWN_ROWS = 5
"""Rows shown of a group."""


def duplicates(
    path: Rows,
    *,
    limit: Annotated[int, Parameter(help="Groups to show of each kind.")] = 20,
    columns: Columns = None,
    reading: Reading = AS_THE_FILE_SAYS,
    as_json: AsJson = False,
) -> int:
    """Show rows that say the same or nearly the same, the largest groups first.

    Exact repeats are equal to the character, calls, tools and rejected replies included. Near repeats are looked for
    among the first 300,000 rows, as ``tunesmith data check`` does.

    Example
    -------
    tunesmith data duplicates rows.jsonl --limit 5
    """
    rows = load_rows(path, columns, 1.0, reading.options()).rows
    exact = exact_duplicates(rows)
    near = near_duplicate_rows(rows[:MAX_NEAR_ROWS])
    groups = {
        "exact": grouped(exact),
        "near": grouped({later: first for later, first in near.items() if later not in exact}),
    }
    found = {
        "rows": len(rows),
        **{kind: _kind(rows, numbers, max(0, limit)) for kind, numbers in groups.items()},
    }
    if as_json:
        print_json(found)
    else:
        _print(found)
    return 0


def grouped(first_of: Mapping[int, int]) -> list[list[int]]:
    """The numbers of rows that repeat one another, each group in order, the largest first.

    ``first_of`` has for each later row the first that it repeats.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for later, first in sorted(first_of.items()):
        groups[first].append(later)
    found = [[first, *later] for first, later in groups.items()]
    return sorted(found, key=lambda numbers: (-len(numbers), numbers[0]))


def _kind(rows: Sequence[Row], groups: Sequence[Sequence[int]], limit: int) -> dict[str, Any]:
    """How many groups and repeats there are, and the largest groups with their first rows."""
    return {
        "groups": len(groups),
        "repeats": sum(len(numbers) - 1 for numbers in groups),
        "shown": [_group(rows, numbers) for numbers in groups[:limit]],
    }


def _group(rows: Sequence[Row], numbers: Sequence[int]) -> dict[str, Any]:

    shown = [rows[number] for number in numbers[:SHOWN_ROWS]]
    return {
        "count": len(numbers),
        "rows": [{"place": row.place, "record": row_record(row)} for row in shown],
    }


def _print(found: Mapping[str, Any]) -> None:
    for kind, words in (("exact", "stand more than once"), ("near", "nearly repeat others")):
        say(f"{found[kind]['repeats']:,} of {found['rows']:,} rows {words}.")
        for group in found[kind]["shown"]:
            say(f"  {group['count']:,} times" if kind == "exact" else f"  {group['count']:,} rows alike")
            for row in group["rows"]:
                say(f"    {row['place']}  {json.dumps(row['record'], ensure_ascii=False)[:160]}")
