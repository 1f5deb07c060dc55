"""``tunesmith data rows``: the records as they stand in a source, paged and searched, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from backend.commands.options import AsJson, Rows
from backend.commands.output import error_record, print_json, say
from backend.errors import TunesmithError

if TYPE_CHECKING:
    from backend.data.locate import Located
    from backend.data.records import Record


def rows(
    path: Rows,
    *,
    text: Annotated[str, Parameter(help="Only records with this in them, capitals or not.")] = "",
    offset: Annotated[int, Parameter(help="Records to pass over.")] = 0,
    limit: Annotated[int, Parameter(help="Records to show.")] = 20,
    columns: Annotated[
        dict[str, str] | None, Parameter(help="Names of your columns by role: --columns.prompt question.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show records as they stand in a source, and say how they will be read and why.

    Works for records that fit no known shape too, so that their columns can be named.

    Example
    -------
    tunesmith data rows rows.jsonl --text pork --limit 5
    """
    from backend.data.load import SAMPLE_RECORDS, sample_for_shape  # noqa: PLC0415 - pyarrow loads here
    from backend.data.locate import locate  # noqa: PLC0415
    from backend.data.sources import ReadOptions  # noqa: PLC0415

    shown: list[Record] = []
    sample: list[Record] = []
    total = matching = 0
    located = locate(path)
    for record in _records(located):
        total += 1
        if total <= SAMPLE_RECORDS:
            sample.append(record)
        if text and text.casefold() not in _line(record).casefold():
            continue
        matching += 1
        if offset < matching <= offset + limit:
            shown.append(record)
    sample = sample_for_shape(sample, located, ReadOptions())
    found = {
        "columns": list(dict.fromkeys(name for record in sample for name in record.cells)),
        **_reading(sample, columns),
        "total": total,
        "matching": matching,
        "rows": [{"place": record.place, "cells": json.loads(_line(record))} for record in shown],
    }
    if as_json:
        print_json(found)
    else:
        _print(found)
    return 0


def _records(located: Located) -> Iterator[Record]:
    from backend.data.records import Record  # noqa: PLC0415
    from backend.data.sources import ReadOptions, read_file  # noqa: PLC0415

    for file in located.files:
        for item in read_file(file, ReadOptions()):
            if isinstance(item, Record):
                yield item


def _line(record: Record) -> str:
    return json.dumps(record.cells, ensure_ascii=False, default=str)


def _reading(sample: list[Record], columns: dict[str, str] | None) -> dict[str, Any]:
    """How the records are read: the reason, the column of each part, and what stands in the way."""
    from backend.data.families import PARTS  # noqa: PLC0415
    from backend.data.formats import detect  # noqa: PLC0415

    parts = {name: [*each.required, *each.optional] for name, each in PARTS.items()}
    try:
        shape = detect(sample, columns)
    except TunesmithError as error:
        return {"shape": "", "read_as": "", "roles": {}, "parts": parts, "problem": error_record(error)}
    return {
        "shape": shape.name,
        "read_as": shape.reason,
        "roles": dict(shape.columns),
        "parts": parts,
        "problem": None,
    }


def _print(found: dict[str, Any]) -> None:
    problem = found["problem"]
    say(found["read_as"] or f"{problem['message']} {problem['remedy']}")
    for row in found["rows"]:
        say(f"{row['place']}  {json.dumps(row['cells'], ensure_ascii=False)}")
    say(f"{found['matching']:,} of {found['total']:,} records.")
