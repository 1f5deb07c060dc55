"""``tunesmith data rows``: the records as they stand in a source, paged and searched, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

from cyclopts import Parameter

from backend.commands.options import AsJson
from backend.commands.output import error_record, print_json, say
from backend.commands.phrases import with_flags
from backend.commands.reading import AS_THE_FILE_SAYS, Columns, Reading, Rows
from backend.data.families import PARTS
from backend.data.formats import Shape, detect, fits
from backend.data.load import SAMPLE_RECORDS, sample_for_shape
from backend.data.locate import Located, locate, take_part
from backend.data.records import Record, Rejected
from backend.data.sources import ReadOptions, read_file
from backend.errors import TunesmithError
from backend.utils.text_utils import counted

EXAMPLES = 3
"""Records that cannot be read of which the reason is shown."""


def rows(
    path: Rows,
    *,
    text: Annotated[str, Parameter(help="Only records with this in them, capitals or not.")] = "",
    offset: Annotated[int, Parameter(help="Records to pass over.")] = 0,
    limit: Annotated[int, Parameter(help="Records to show.")] = 20,
    columns: Columns = None,
    reading: Reading = AS_THE_FILE_SAYS,
    as_json: AsJson = False,
) -> int:
    """Show records as they stand in a source, and say how they will be read and why.

    Works for records that fit no known shape too, so that their columns can be named.

    Example
    -------
    tunesmith data rows rows.jsonl --text pork --limit 5
    """
    located, options = locate(path), reading.options()
    sample = list(islice(_records(located, options), SAMPLE_RECORDS))
    sample = sample_for_shape(sample, located, options)
    shape, said = _reading(sample, columns)
    refused: list[Rejected] = []
    shown: list[Record] = []
    total = matching = 0
    for record in _within(located, options, shape, refused):
        total += 1
        if text and text.casefold() not in _line(record).casefold():
            continue
        matching += 1
        if offset < matching <= offset + limit:
            shown.append(record)
    found = {
        "columns": list(dict.fromkeys(name for record in sample for name in record.cells)),
        **said,
        "total": total,
        "matching": matching,
        "rows": [{"place": record.place, "cells": json.loads(_line(record))} for record in shown],
        "unreadable": len(refused),
        "unreadable_examples": [{"place": each.place, "reason": each.reason} for each in refused[:EXAMPLES]],
    }
    if as_json:
        print_json(found)
    else:
        _print(found)
    return 0


def _records(
    located: Located, options: ReadOptions, refused: list[Rejected] | None = None
) -> Iterator[Record]:
    """Every record of the files; what is none of them goes into ``refused``."""
    for file in located.files:
        for item in read_file(file, options):
            if isinstance(item, Record):
                yield item
            elif isinstance(item, Rejected) and refused is not None:
                refused.append(item)


def _within(
    located: Located, options: ReadOptions, shape: Shape | None, refused: list[Rejected]
) -> Iterator[Record]:
    """The records of the slice that was asked for; as in training only those count that make a row."""
    if located.part is None:
        return _records(located, options, refused)

    def usable(refused: list[Rejected] | None = None) -> Iterator[Record]:
        records = _records(located, options, refused)
        return (record for record in records if shape is None or fits(record, shape))

    part = take_part(sum(1 for _ in usable()), located.part)
    return islice(usable(refused), part.start, part.stop)


def _line(record: Record) -> str:
    return json.dumps(record.cells, ensure_ascii=False, default=str)


def _reading(sample: list[Record], columns: dict[str, str] | None) -> tuple[Shape | None, dict[str, Any]]:
    """How the records are read: the reason, the column of each part, and what stands in the way."""
    parts = {name: [*each.required, *each.optional] for name, each in PARTS.items()}
    try:
        shape = detect(sample, columns)
    except TunesmithError as error:
        return None, {"shape": "", "read_as": "", "roles": {}, "parts": parts, "problem": error_record(error)}
    return shape, {
        "shape": shape.name,
        "read_as": shape.reason,
        "roles": dict(shape.columns),
        "parts": parts,
        "problem": None,
    }


def _print(found: dict[str, Any]) -> None:
    problem = found["problem"]
    say(found["read_as"] or f"{problem['message']} {with_flags(problem['remedy'])}")
    for row in found["rows"]:
        say(f"{row['place']}  {json.dumps(row['cells'], ensure_ascii=False)}")
    say(f"{found['matching']:,} of {found['total']:,} records.")
    if found["unreadable"]:
        first = found["unreadable_examples"][0]
        say(
            f"{counted(found['unreadable'], 'more record')} cannot be read: {first['place']}: {first['reason']}."
        )
