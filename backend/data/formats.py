"""Which shape the records of a file have, and each record as a canonical row.

Detection tries every shape on a sample and says why it chose one; an explicit column map beats it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from backend.data.families import ALIASES, FAMILIES, FOREIGN, PARTS, Family
from backend.data.records import Record, Row
from backend.data.shapes import build
from backend.errors import DataError
from backend.utils.text_utils import shorten

GOOD_SHARE = 0.5
COLUMNS_NAMED = 20

_TABLES = (".csv", ".tsv", ".tab", ".psv", ".xlsx", ".xlsm")


@dataclass(frozen=True)
class Shape:
    """How rows are read: the shape's name, which column holds which part, and why this was chosen.

    ``share`` is the fraction of the sampled records that fit, 0 to 1. ``later`` holds the columns of optional parts
    that no sampled record has: where they turn up, they are read too.
    """

    name: str
    columns: Mapping[str, str]
    reason: str
    share: float
    later: Mapping[str, str] = field(default_factory=dict)


def detect(records: Iterable[Record], columns: Mapping[str, str] | None = None) -> Shape:
    """The most specific shape that fits at least half of the records, or the one an explicit column map spells out.

    When none fits half of them, the one that fits most is taken; what does not fit will be rejected by row.
    Prompts alone are a shape only where no row has an answer.

    Raises ``DataError`` when there is no record, when no shape fits any of them, when they are of a format that keeps
    its words deeper, and when the map is wrong.
    """
    sample = list(records)
    if not sample:
        raise DataError(
            "There is no row to look at.", remedy="Put at least one row into the file.", code="no-rows"
        )
    if columns:
        return shape_from_columns(columns, sample)
    names = _column_names(sample)
    candidates = [_shape(family, names, sample) for family in FAMILIES if _present(family, names)]
    taught = [shape for shape in candidates if shape.share > 0 and shape.name != "prompt"]
    taught = taught or [shape for shape in candidates if _has_answers(shape, sample)] or candidates
    good = (shape for shape in taught if shape.share >= GOOD_SHARE)
    best = next(good, None) or max(taught, key=lambda shape: shape.share, default=None)
    if (best is None or best.share == 0) and _sideways(sample):
        raise DataError(
            f"{_file(sample)} is one object, and its rows stand inside it, by column or by name.",
            remedy="Write a list with an object for each row (pandas: orient='records').",
            code="one-object",
        )
    if foreign := _foreign(names, sample, nothing_fits=best is None or best.share == 0):
        raise foreign
    if best is None:
        raise _unknown_shape(names, sample)
    if best.share == 0:
        raise DataError(
            f"The rows look like {best.name}, but none can be read so: {_first_reason(best, sample)}",
            remedy="Mend the rows, or say with data.columns which column holds what.",
            code="unknown-shape",
        )
    return best


def shape_from_columns(columns: Mapping[str, str], sample: Sequence[Record]) -> Shape:
    """The shape whose parts the map names, for example ``{"prompt": "Question", "completion": "Answer"}``.

    Raises ``DataError`` on a part that no shape has and on a column that the records do not have.
    """
    parts = set(columns) - {"group"}
    names = [
        name
        for name, each in PARTS.items()
        if set(each.required) <= parts <= {*each.required, *each.optional}
    ]
    if not names:
        raise _unknown_parts(parts)
    _check_columns(columns, sample)
    shown = ", ".join(f"{part} from {column!r}" for part, column in columns.items())
    shape = Shape(names[0], dict(columns), f"read as {names[0]} as asked: {shown}", 0.0)
    return Shape(shape.name, shape.columns, shape.reason, _share(shape, sample))


def listed(columns: Sequence[str]) -> str:
    """The first columns in a line for a person, without what a terminal would obey, and how many more there are."""
    more = f" and {len(columns) - COLUMNS_NAMED:,} more" if len(columns) > COLUMNS_NAMED else ""
    return ", ".join(shorten(column, 60) for column in columns[:COLUMNS_NAMED]) + more


def to_row(record: Record, shape: Shape) -> Row:
    """The record as a canonical row; raises ``DataError`` with the place, the field and the reason."""
    try:
        return build(shape.name, record.cells, {**shape.later, **shape.columns}, record.place)
    except DataError as error:
        raise DataError(f"{record.place}: {error.message}.", remedy=error.remedy, code=error.code) from None


def other_shape(record: Record, shape: Shape) -> str:
    """How a record that lacks a column of ``shape`` could be read, in words; "" where it lacks none or fits none."""
    if all(shape.columns[part] in record.cells for part in PARTS[shape.name].required):
        return ""
    try:
        fits = detect([record])
    except DataError:
        return ""
    if fits.name == "prompt":
        return ""
    columns = " and ".join(repr(fits.columns[part]) for part in PARTS[fits.name].required)
    return f"the row looks like {fits.name} ({columns}): give such rows a file of their own"


def _present(family: Family, names: Mapping[str, str]) -> bool:
    return all(column in names for column in family.required.values())


def _shape(family: Family, names: Mapping[str, str], sample: Sequence[Record]) -> Shape:
    wanted = {**family.required, **family.optional}
    columns = {part: names[column] for part, column in wanted.items() if column in names}
    for alias, part in ALIASES.items():
        if alias in names and part in family.optional:
            columns.setdefault(part, names[alias])
    share = _share(Shape(family.shape, columns, "", 0.0), sample)
    shown = " and ".join(repr(columns[part]) for part in family.required)
    reason = (
        f"read as {family.shape} because of the {'columns' if len(family.required) > 1 else 'column'} {shown}; "
        f"fits {share:.0%} of {len(sample)} sampled rows"
    )
    unused = [column for column in names.values() if column not in columns.values()]
    if unused:
        reason += f"; not used: {listed(unused)}"
    later = {part: column for part, column in family.optional.items() if part not in columns}
    return Shape(family.shape, columns, reason, share, later)


def _has_answers(shape: Shape, sample: Sequence[Record]) -> bool:
    """Whether any record has something, be it unreadable, in the columns that this shape has besides the prompt."""
    columns = [shape.columns[part] for part in PARTS[shape.name].required if part != "prompt"]
    return any(record.cells.get(column) is not None for record in sample for column in columns)


def _share(shape: Shape, sample: Sequence[Record]) -> float:
    return sum(_fits(record, shape) for record in sample) / len(sample) if sample else 0.0


def _fits(record: Record, shape: Shape) -> bool:
    try:
        to_row(record, shape)
    except DataError:
        return False
    return True


def _first_reason(shape: Shape, sample: Sequence[Record]) -> str:
    try:
        to_row(sample[0], shape)
    except DataError as error:
        return error.message
    return ""


def _column_names(sample: Sequence[Record]) -> dict[str, str]:
    """Every column by its name in lower case, first spelling first."""
    names: dict[str, str] = {}
    for record in sample:
        for column in record.cells:
            names.setdefault(column.strip().lower(), column)
    return names


def _check_columns(columns: Mapping[str, str], sample: Sequence[Record]) -> None:
    present = list(dict.fromkeys(column for record in sample for column in record.cells))
    for part, column in columns.items():
        if column not in present:
            close = difflib.get_close_matches(column, present, n=1)
            hint = f"Did you mean {close[0]!r}? " if close else ""
            raise DataError(
                f"data.columns names {column!r} for {part}, but no row has that column.",
                remedy=f"{hint}The columns are: {listed(present)}.",
                code="unknown-column",
            )


def _sideways(sample: Sequence[Record]) -> bool:
    """Whether one record holds all others: nothing but objects with the same keys, or lists of as many texts."""
    cells = list(sample[0].cells.values()) if len(sample) == 1 else []
    objects = [cell.keys() for cell in cells if isinstance(cell, dict) and cell]
    lists = [len(cell) for cell in cells if isinstance(cell, list) and cell and isinstance(cell[0], str)]
    return len(cells) > 1 and (
        (len(objects) == len(cells) and all(each == objects[0] for each in objects))
        or (len(lists) == len(cells) and len(set(lists)) == 1)
    )


def _foreign(names: Mapping[str, str], sample: Sequence[Record], *, nothing_fits: bool) -> DataError | None:
    """The error for a known format that is none of ours; one of single messages would pass for plain texts."""
    for columns, kind, remedy in FOREIGN:
        if columns <= names.keys() and (nothing_fits or "role" in columns):
            return DataError(f"{_file(sample)} looks like {kind}.", remedy=remedy, code="foreign-format")
    return None


def _file(sample: Sequence[Record]) -> str:
    return sample[0].place.rpartition(":")[0]


def _unknown_parts(parts: set[str]) -> DataError:
    known = "; ".join(
        f"{name}: {', '.join(each.required)}"
        + (f" (and {', '.join(each.optional)})" if each.optional else "")
        for name, each in PARTS.items()
    )
    return DataError(
        f"data.columns names the parts {', '.join(sorted(parts)) or '(none)'}, which make up no shape.",
        remedy=f"Name the parts of one of these. {known}.",
        code="unknown-columns",
    )


def _unknown_shape(names: Mapping[str, str], sample: Sequence[Record]) -> DataError:
    columns, file = list(names.values()), _file(sample)
    cells = (cell for record in sample for cell in record.cells.items())
    deep = listed(sorted({name for name, value in cells if value and isinstance(value, dict | list)}))
    nested = f"What stands in lists or objects ({deep}) must become texts or messages. " if deep else ""
    if len(columns) == 1 and not nested:
        return DataError(
            f"{file} has one column only, {columns[0]!r}. No known shape has that.",
            remedy="Name the columns in the first line, for example prompt,completion (or text, for plain texts), "
            "or set data.delimiter if they are parted by something unusual.",
            code="unknown-shape",
        )
    headless = "If these are no names but a row, write a line of names above it. " * file.endswith(_TABLES)
    flags = "--columns.prompt Question --columns.completion Answer"
    return DataError(
        f"{file}: No known shape has the columns {listed(columns)}.",
        remedy=f"{headless}{nested}Say which of them holds what: {flags}, "
        "or data.columns: {prompt: Question, completion: Answer} in a run's settings.",
        code="unknown-shape",
    )
