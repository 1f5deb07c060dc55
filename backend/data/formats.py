"""Which shape the records of a file have, and each record as a canonical row.

Detection tries every shape on a sample and says why it chose one; an explicit column map beats it.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.data.chat import ROLES, is_conversation
from backend.data.exact_json import Spelled
from backend.data.families import (
    ANSWERS,
    CLASSES,
    DIGESTS,
    DOCUMENTS,
    FAMILIES,
    FOREIGN,
    PART_NAMES,
    PARTS,
    QUESTIONS,
    ROUND_NAMES,
    SPEAKERS,
    UTTERANCES,
    Family,
)
from backend.data.records import Record, Row
from backend.data.shapes import build
from backend.data.unused import UnusedColumn, texts_beside
from backend.errors import DataError
from backend.utils.text_utils import shorten

GOOD_SHARE = 0.5
COLUMNS_NAMED = 20
PLACEHOLDERS: Mapping[str, str] = {"prompt": "Question", "completion": "Answer"}
"""A column map as an example, where the columns themselves tell nothing."""

_THOUGHTS = re.compile(r"reason|rationale|explan|think|thought|cot(?![a-z])|chain")
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
    """Return the most specific shape that fits at least half of the records, or the one a column map spells out.

    When none fits half of them, the one that fits most is taken; what does not fit will be rejected by row.
    One column alone (``text``, ``prompt``) makes a shape only where no other column could be meant.

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
    best = _best(_shapes(names, sample, alone=False)) or _best(
        shape for shape in _shapes(names, sample, alone=True) if not _other_meant(shape, names, sample)
    )
    if foreign := _foreign(names, sample, best):
        raise foreign
    if best is not None:
        return best
    if _sideways(sample):
        raise DataError(
            f"{_file(sample)} is one object, and its rows stand inside it, by column or by name.",
            remedy="Write a list with an object for each row (pandas: orient='records').",
            code="one-object",
        )
    every = _shapes(names, sample, alone=None)
    unreadable = next((shape for shape in every if _is_unreadable(shape, sample)), None)
    if unreadable is None:
        raise _unknown_shape(names, sample)
    raise DataError(
        f"The rows look like {unreadable.name}, but none can be read so: {_first_reason(unreadable, sample)}",
        remedy="Mend the rows, or say with data.columns which column holds what.",
        code="unknown-shape",
    )


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
    reason = f"read as {names[0]} as asked: {shown}" + _not_used(_column_names(sample), columns)
    shape = Shape(names[0], dict(columns), reason, 0.0)
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


def fits(record: Record, shape: Shape) -> bool:
    """Return whether a record makes a row of this shape."""
    try:
        to_row(record, shape)
    except DataError:
        return False
    return True


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


def _shapes(names: Mapping[str, str], sample: Sequence[Record], *, alone: bool | None) -> Iterator[Shape]:
    """Every way to read these columns, likeliest first; ``alone``: with one column only, or with several."""
    for family in FAMILIES:
        if alone is None or family.alone == alone:
            yield from (_shape(family, columns, names, sample) for columns in family.readings(names))


def _best(shapes: Iterable[Shape]) -> Shape | None:
    """The first that fits half of the sample, else the one that fits most of it, if any."""
    found: list[Shape] = []
    for shape in shapes:
        if shape.share >= GOOD_SHARE:
            return shape
        found.append(shape)
    best = max(found, key=lambda shape: shape.share, default=None)
    return best if best is not None and best.share > 0 else None


def _shape(
    family: Family, columns: Mapping[str, str], names: Mapping[str, str], sample: Sequence[Record]
) -> Shape:
    share = _share(Shape(family.shape, columns, "", 0.0), sample)
    shown = " and ".join(repr(columns[part]) for part in family.required)
    reason = (
        f"read as {family.shape} because of the {'columns' if len(family.required) > 1 else 'column'} {shown}; "
        f"fits {share:.0%} of {len(sample)} sampled rows"
    )
    beside = [
        f"{part} from {column!r}"
        for part, column in columns.items()
        if part not in family.required and part != column
    ]
    reason += f"; with {', '.join(beside)}" if beside else ""
    reason += _not_used(names, columns)
    later = {
        part: choices[0]
        for part, choices in family.optional.items()
        if part not in columns and choices[0] not in columns.values()
    }
    return Shape(family.shape, columns, reason, share, later)


def _not_used(names: Mapping[str, str], columns: Mapping[str, str]) -> str:
    unused = [column for column in names.values() if column not in columns.values()]
    return f"; not used: {listed(unused)}" if unused else ""


def _other_meant(shape: Shape, names: Mapping[str, str], sample: Sequence[Record]) -> bool:
    """Whether a column beside those of a shape of one column is likely to be a part of the row too.

    That is one with a name that parts have, and one that holds sentences.
    """
    taken = set(shape.columns.values())
    known = [column for name, column in names.items() if name in PART_NAMES and column not in taken]
    cells = (
        value
        for record in sample
        for name in known
        if (value := record.cells.get(name)) not in (None, "", [])
    )
    meant = any(shape.name != "text" or not _is_number(value) for value in cells)
    return meant or bool(texts_beside(sample, taken))


def _is_number(value: Any) -> bool:
    return (
        not isinstance(value, str)
        or isinstance(value, Spelled)
        or value.strip().replace(".", "", 1).isdecimal()
    )


def _is_unreadable(shape: Shape, sample: Sequence[Record]) -> bool:
    """Whether some record has something in each column that this shape cannot do without, and none can be read."""
    if shape.share > 0:
        return False
    columns = [shape.columns[part] for part in PARTS[shape.name].required]
    return any(all(record.cells.get(column) is not None for column in columns) for record in sample)


def _share(shape: Shape, sample: Sequence[Record]) -> float:
    return sum(fits(record, shape) for record in sample) / len(sample) if sample else 0.0


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


def _foreign(names: Mapping[str, str], sample: Sequence[Record], best: Shape | None) -> DataError | None:
    """The error for a known format that is none of ours; one of single messages would pass for plain texts."""
    if best is not None and best.name != "text":
        return None
    for columns, kind, remedy in FOREIGN:
        if columns <= names.keys() and (best is None or "role" in columns):
            return DataError(f"{_file(sample)} looks like {kind}.", remedy=remedy, code="foreign-format")
    speaker = next((names[name] for name in SPEAKERS if name in names), None)
    words = next((names[name] for name in UTTERANCES if name in names), None)
    if speaker is None or words is None or not _take_turns(speaker, sample):
        return None
    return DataError(
        f"{_file(sample)} holds one message a row ({speaker!r} says {words!r}): a row here is only one side of a "
        "conversation.",
        remedy="Write a row for each conversation, with its messages in order: "
        '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}.',
        code="foreign-format",
    )


def _take_turns(column: str, sample: Sequence[Record]) -> bool:
    """Whether a column names who speaks: the roles of a chat, or several speakers that come again."""
    spoken = [str(value).strip().lower() for record in sample if (value := record.cells.get(column))]
    roles = sum(name in ROLES for name in spoken)
    return 2 * roles > len(spoken) or (len(spoken) > 3 and 1 < len(set(spoken)) <= len(spoken) // 2)


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
            f"or set data.delimiter if they are parted by something unusual{_likely_delimiter(columns[0], sample)}.",
            code="unknown-shape",
        )
    headless = "If these are no names but a row, write a line of names above it. " * file.endswith(_TABLES)
    ways = _ways_out(names, sample)
    first = ", ".join(f"{part}: {column}" for part, column in ways[0].items())
    return DataError(
        f"{file}: No known shape has the columns {listed(columns)}.",
        remedy=f"{headless}{nested if PLACEHOLDERS in ways else ''}Say which of them holds what: "
        f"{', or '.join(map(column_flags, ways))}, or data.columns: {{{first}}} in a run's settings.",
        code="unknown-shape",
    )


def _likely_delimiter(header: str, sample: Sequence[Record]) -> str:
    """The flag for a sign that stands as often in each row as in the line of names; "" without one."""
    signs = [
        sign
        for sign in dict.fromkeys(header)
        if not sign.isalnum() and not sign.isspace() and sign not in '"_-'
    ]
    cells = [str(record.cells.get(header, "")) for record in sample]
    even = (sign for sign in signs if all(cell.count(sign) == header.count(sign) for cell in cells))
    sign = next(even, "")
    return f": --data.delimiter {shlex.quote(sign)}" if sign else ""


def column_flags(columns: Mapping[str, str]) -> str:
    """Return the flags that say which column holds which part, as a shell takes them."""
    return " ".join(f"--columns.{part} {shlex.quote(column)}" for part, column in columns.items())


def how_to_use(unused: UnusedColumn, shape: Shape) -> str:
    """Return what to do about a column that is not used, as a sentence with the flags that would use it."""
    renamed = {"instruction": "prompt", "output": "completion", "text": "prompt"}
    columns = {renamed.get(part, part): column for part, column in shape.columns.items()}
    if unused.holds == "rating" and any(
        word in unused.name.lower() for word in ("reject", "prefer", "chosen")
    ):
        return (
            "If it belongs to pairs of answers, name them with --columns.prompt, --columns.chosen and "
            "--columns.rejected; else leave the column out of the file."
        )
    if unused.holds == "rating":
        flags = column_flags({**columns, "label": unused.name})
        return f"If it says which answers are good (1) or bad (0): {flags}; else leave the column out of the file."
    part = "completion" if shape.name == "text" else _free_part(unused.name, shape)
    return f"To train on it: {column_flags({**columns, part: unused.name})}."


def _free_part(name: str, shape: Shape) -> str:
    """The part of a shape that an unused column is likeliest meant for."""
    likeliest = ("reasoning",) if _THOUGHTS.search(name.lower()) else ("context", "input")
    free = (part for part in PARTS[shape.name].optional if part not in shape.columns)
    return min(free, key=lambda part: (part not in likeliest, part != "context"), default="system")


def _ways_out(names: Mapping[str, str], sample: Sequence[Record]) -> list[Mapping[str, str]]:
    """Column maps that would read these rows, likeliest first; an example where nothing can be said."""
    chats = [name for name in names.values() if any(is_conversation(each.cells.get(name)) for each in sample)]
    if len(chats) == 1:
        return [{"messages": chats[0]}]
    told = [column.name for column in texts_beside(sample, ())]
    by_name = [column for name, column in names.items() if name in PART_NAMES and name not in ROUND_NAMES]
    asked = [names[name] for name in (*QUESTIONS, "instruction", *DOCUMENTS) if name in names] + told
    answers = (
        [names[name] for name in (*ANSWERS, *DIGESTS, *CLASSES) if name in names] + told[::-1] + by_name[::-1]
    )
    pairs = [
        {"prompt": ask, "completion": answer} for ask in asked[:1] for answer in answers if answer != ask
    ]
    if not pairs:
        return [PLACEHOLDERS]
    around = {
        part: names[name] for part in ("context", "choices", "system") for name in (part,) if name in names
    }
    plain = [{"text": names[name]} for name in ("text", "content") if name in names]
    return [
        {**pairs[0], **{part: name for part, name in around.items() if name not in pairs[0].values()}},
        *plain[:1],
    ]
