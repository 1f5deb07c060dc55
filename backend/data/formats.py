"""Detect the shape of records and turn each record into a canonical row.

Detection tries every shape on a sample and tells why it chose one; an explicit column map overrides it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.data.column_words import TEMPLATE_SETTINGS, WORSE
from backend.data.exact_json import Spelled
from backend.data.families import (
    FAMILIES,
    PART_NAMES,
    PARTS,
    Family,
)
from backend.data.pairs import dialogue
from backend.data.records import Record, Row
from backend.data.refusals import (
    column_settings,
    foreign_format,
    listed,
    one_object,
    unknown_parts,
    unknown_shape,
)
from backend.data.shapes import DIALOGUE_SHAPES, build
from backend.data.unused import UnusedColumn, text_columns
from backend.errors import DataError

GOOD_SHARE = 0.5

_ADVICE: Mapping[str, str] = {
    TEMPLATE_SETTINGS: "A run shows all rows to the model in the same way: write rows with other values into a file "
    "of their own, and set model.chat_template (thinking, or no-thinking where enable_thinking is false).",
    "marks": "Write rows that are not for training into a file of their own, or leave them out.",
}
"""What to do with an unused column, by its name or by what it holds."""

_CHOICES = re.compile(r"(?:options?|choices?|ending)(?:[_ ]?[a-z0-9])?$|[a-e]$")
_THOUGHTS = re.compile(r"reason|rationale|explan|think|thought|cot(?![a-z])|chain")


@dataclass(frozen=True)
class Shape:
    """The shape of a source's rows: its name, which column holds which part, and why it was chosen.

    ``share`` is the fraction of the sampled records that fit, 0 to 1. ``later`` maps optional parts to columns that
    no sampled record has: where they turn up later, they are read too.
    """

    name: str
    columns: Mapping[str, str]
    reason: str
    share: float
    later: Mapping[str, str] = field(default_factory=dict)


def detect(records: Iterable[Record], columns: Mapping[str, str] | None = None) -> Shape:
    """Return the most specific shape that fits at least half of the records, or the one that ``columns`` names.

    If none fits half of them, the one that fits most is returned; records that do not fit will be rejected.
    One column alone (``text``, ``prompt``) makes a shape only if no other column could be meant.

    Raises ``DataError`` when there is no record, when no shape fits any of them, when they are of a known foreign
    format, and when the map is wrong.
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
        shape for shape in _shapes(names, sample, alone=True) if not _has_more_parts(shape, names, sample)
    )
    if foreign := foreign_format(names, sample, best.name if best else None):
        raise foreign
    if best is not None:
        return best
    if error := one_object(sample):
        raise error
    every = _shapes(names, sample, alone=None)
    unreadable = next((shape for shape in every if _is_unreadable(shape, sample)), None)
    if unreadable is None:
        raise unknown_shape(names, sample)
    raise DataError(
        f"The rows look like {unreadable.name}, but none can be read so: {_first_reason(unreadable, sample)}",
        remedy="Mend the rows, or say with data.columns which column holds what.",
        code="unknown-shape",
    )


def shape_from_columns(columns: Mapping[str, str], sample: Sequence[Record]) -> Shape:
    """Return the shape for a column map such as ``{"prompt": "Question", "completion": "Answer"}``.

    Raises ``DataError`` for a part that no shape has and for a column that no record has.
    """
    parts = set(columns) - {"group"}
    names = [
        name
        for name, each in PARTS.items()
        if set(each.required) <= parts <= {*each.required, *each.optional}
    ]
    if not names:
        raise unknown_parts(parts)
    _check_columns(columns, sample)
    shown = ", ".join(f"{part} from {column!r}" for part, column in columns.items())
    reason = f"read as {names[0]} as asked: {shown}" + _not_used(_column_names(sample), columns)
    shape = Shape(names[0], dict(columns), reason, 0.0)
    return Shape(shape.name, shape.columns, shape.reason, _share(shape, sample))


def to_row(record: Record, shape: Shape) -> Row:
    """Return the record as a canonical row; raises ``DataError`` with the place, the field and the reason."""
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
    """Return advice on how to read a record that lacks a column of ``shape``; "" if it lacks none or fits none."""
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
    """Yield every way to read these columns, likeliest first.

    ``alone``: only shapes of one column (True) or of several (False).
    """
    for family in FAMILIES:
        if alone is None or family.alone == alone:
            yield from (_shape(family, columns, names, sample) for columns in family.readings(names))


def _best(shapes: Iterable[Shape]) -> Shape | None:
    """Return the first shape that fits half of the sample, else the one that fits most of it, if any."""
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
    columns = _without_whole_rows(columns, sample)
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
    if family.shape in DIALOGUE_SHAPES and any(
        dialogue(record.cells.get(column)) for record in sample for column in columns.values()
    ):
        reason += "; dialogues in one text (Human: …, Assistant: …) are read as turns"
    reason += _not_used(names, columns)
    later = {
        part: choices[0]
        for part, choices in family.optional.items()
        if part not in columns and choices[0] not in columns.values()
    }
    return Shape(family.shape, columns, reason, share, later)


def _without_whole_rows(columns: Mapping[str, str], sample: Sequence[Record]) -> Mapping[str, str]:
    """Return the columns without a context column that repeats the whole row, prompt and answer included.

    Such a column would put the answer into the prompt.
    """
    prompt = columns.get("prompt", columns.get("instruction"))
    answer = columns.get("completion", columns.get("output"))
    if "context" not in columns or prompt is None or answer is None:
        return columns
    rows = ([record.cells.get(name) for name in (columns["context"], prompt, answer)] for record in sample)
    filled = [
        [str(cell).strip() for cell in cells] for cells in rows if all(isinstance(c, str) for c in cells)
    ]
    filled = [cells for cells in filled if all(cells)]
    whole = sum(question in text and reply in text for text, question, reply in filled)
    if 2 * whole <= len(filled):
        return columns
    return {part: name for part, name in columns.items() if part != "context"}


def _not_used(names: Mapping[str, str], columns: Mapping[str, str]) -> str:
    unused = [column for column in names.values() if column not in columns.values()]
    return f"; not used: {listed(unused)}" if unused else ""


def _has_more_parts(shape: Shape, names: Mapping[str, str], sample: Sequence[Record]) -> bool:
    """Return whether another column than the one of ``shape`` is likely a part of the row too.

    That is a column with the name of a part, or one that holds sentences.
    """
    taken = set(shape.columns.values())
    known = [column for name, column in names.items() if name in PART_NAMES and column not in taken]
    cells = (
        value
        for record in sample
        for name in known
        if (value := record.cells.get(name)) not in (None, "", [])
    )
    named = any(shape.name != "text" or not _is_number(value) for value in cells)
    return named or bool(text_columns(sample, taken))


def _is_number(value: Any) -> bool:
    return (
        not isinstance(value, str)
        or isinstance(value, Spelled)
        or value.strip().replace(".", "", 1).isdecimal()
    )


def _is_unreadable(shape: Shape, sample: Sequence[Record]) -> bool:
    """Return whether no record can be read in this shape although one has all of its required columns filled."""
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
    """Return every column by its name in lower case; of several spellings the first."""
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


def how_to_use(unused: UnusedColumn, shape: Shape) -> str:
    """Return advice about a column that is not used, with the settings that would use it."""
    renamed = {"instruction": "prompt", "output": "completion", "text": "prompt"}
    columns = {renamed.get(part, part): column for part, column in shape.columns.items()}
    if (advice := _ADVICE.get(unused.name) or _ADVICE.get(unused.holds)) is not None:
        return advice
    if unused.holds == "scores":
        settings = column_settings({**columns, "label": unused.name})
        good = "if it is 1 for good and 0 for bad ones"
        return f"If low scores mean bad answers, remove those rows; {good}: {settings}."
    if unused.holds == "rating" and (
        WORSE.search(unused.name.lower())
        or any(word in unused.name.lower() for word in ("reject", "prefer", "chosen"))
    ):
        return (
            "If it belongs to pairs of answers, name them with `columns.prompt`, `columns.chosen` and "
            "`columns.rejected`; else leave the column out of the file."
        )
    if unused.holds == "rating":
        settings = column_settings({**columns, "label": unused.name})
        return f"If it says which answers are good (1) or bad (0): {settings}; else leave the column out of the file."
    if _CHOICES.match(unused.name.strip().lower()) and "choices" not in shape.columns:
        return "To show the choices of a question, write them as a list in one column, named choices."
    part = "completion" if shape.name == "text" else _free_part(unused.name, shape)
    return f"To train on it: {column_settings({**columns, part: unused.name})}."


def _free_part(name: str, shape: Shape) -> str:
    """Return the part of a shape that an unused column is most likely meant for."""
    likeliest = ("reasoning",) if _THOUGHTS.search(name.lower()) else ("context", "input")
    free = (part for part in PARTS[shape.name].optional if part not in shape.columns)
    return min(free, key=lambda part: (part not in likeliest, part != "context"), default="system")
