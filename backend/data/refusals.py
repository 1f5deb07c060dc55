"""The errors for rows that fit no shape: they name the foreign format, or the settings that would read the rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from backend.data.chat import ROLES, is_conversation
from backend.data.column_words import WORSE
from backend.data.families import (
    ANSWERS,
    AROUND_NAMES,
    CLASSES,
    DIGESTS,
    DOCUMENTS,
    FOREIGN,
    PART_NAMES,
    PARTS,
    QUESTIONS,
    SPEAKERS,
    UTTERANCES,
)
from backend.data.records import Record
from backend.data.unused import text_columns
from backend.errors import DataError, marked
from backend.utils.text_utils import shorten

COLUMNS_NAMED = 20
RANKS = ("rank", "score", "rating", "overall_score", "fine-grained_score")
"""Keys that compare the answers of a list."""
PLACEHOLDERS: Mapping[str, str] = {"prompt": "Question", "completion": "Answer"}
"""An example of a column map, for columns that give no hint."""

_TWIN = re.compile(r"[ _-]?(?:(?<=[ _-])[ab]|(?<![0-9])[0-9])$")
_TABLES = (".csv", ".tsv", ".tab", ".psv", ".xlsx", ".xlsm")


def listed(columns: Sequence[str]) -> str:
    """Return the first columns in a line, safe for a terminal, and how many more there are."""
    more = f" and {len(columns) - COLUMNS_NAMED:,} more" if len(columns) > COLUMNS_NAMED else ""
    return ", ".join(shorten(column, 60) for column in columns[:COLUMNS_NAMED]) + more


def column_settings(columns: Mapping[str, str]) -> str:
    """Return the settings for a map of parts to columns, as they stand in a remedy."""
    return " ".join(marked(f"columns.{part}", column) for part, column in columns.items())


def foreign_format(names: Mapping[str, str], sample: Sequence[Record], best: str | None) -> DataError | None:
    """Return the error for rows of a known foreign format, else None.

    ``best`` is the shape that fits them best. If that is ``text``, the rows may still be single messages of a
    conversation.
    """
    if best not in (None, "text"):
        return None
    for columns, kind, remedy in FOREIGN:
        if columns <= names.keys() and (best is None or "role" in columns):
            return DataError(f"{_file(sample)} looks like {kind}.", remedy=remedy, code="foreign-format")
    if ranked := _ranked_column(sample):
        return DataError(
            f"{_file(sample)} holds lists of ranked answers in {ranked!r}; which of them to compare is your choice.",
            remedy="Write a row for each pair to compare: prompt, chosen (the better answer) and rejected (the worse "
            "one). The best of each list against the worst is usual.",
            code="foreign-format",
        )
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


def _ranked_column(sample: Sequence[Record]) -> str | None:
    """Return the column that holds lists of answers with a rank or score each, as in Nectar; None without one."""
    lists = (
        (name, value) for record in sample for name, value in record.cells.items() if isinstance(value, list)
    )
    return next((name for name, value in lists if len(value) > 1 and all(map(_is_ranked, value))), None)


def _is_ranked(value: object) -> bool:
    keys = value.keys() if isinstance(value, Mapping) else ()
    return any(key in RANKS for key in keys) and any(key in (*ANSWERS, *UTTERANCES) for key in keys)


def _take_turns(column: str, sample: Sequence[Record]) -> bool:
    """Return whether a column names speakers: mostly chat roles, or a few names that recur."""
    speakers = [str(value).strip().lower() for record in sample if (value := record.cells.get(column))]
    roles = sum(name in ROLES for name in speakers)
    return 2 * roles > len(speakers) or (len(speakers) > 3 and 1 < len(set(speakers)) <= len(speakers) // 2)


def one_object(sample: Sequence[Record]) -> DataError | None:
    """Return the error for a single record that holds all rows, else None.

    Such a record consists of objects with the same keys, or of lists of equally many texts.
    """
    cells = list(sample[0].cells.values()) if len(sample) == 1 else []
    objects = [cell.keys() for cell in cells if isinstance(cell, dict) and cell]
    lists = [len(cell) for cell in cells if isinstance(cell, list) and cell and isinstance(cell[0], str)]
    by_name = len(objects) == len(cells) > 1 and all(each == objects[0] for each in objects)
    by_column = len(lists) == len(cells) > 1 and len(set(lists)) == 1
    if not (by_name or by_column):
        return None
    return DataError(
        f"{_file(sample)} is one object with all rows inside it, by column or by name.",
        remedy="Write a list with an object for each row (pandas: orient='records').",
        code="one-object",
    )


def unknown_parts(parts: set[str]) -> DataError:
    """Return the error for a column map whose parts are no known shape."""
    known = "; ".join(
        f"{name}: {', '.join(each.required)}"
        + (f" (and {', '.join(each.optional)})" if each.optional else "")
        for name, each in PARTS.items()
    )
    return DataError(
        f"data.columns names the parts {', '.join(sorted(parts)) or '(none)'}, which are no known shape.",
        remedy=f"Name the parts of one of these. {known}.",
        code="unknown-columns",
    )


def unknown_shape(names: Mapping[str, str], sample: Sequence[Record]) -> DataError:
    """Return the error for columns of no known shape, with the settings that would read them."""
    columns, file = list(names.values()), _file(sample)
    cells = (cell for record in sample for cell in record.cells.items())
    deep = listed(sorted({name for name, value in cells if value and isinstance(value, dict | list)}))
    nested = f"What stands in lists or objects ({deep}) must become texts or messages. " if deep else ""
    if len(columns) == 1 and not nested:
        return DataError(
            f"{file} has one column only, {columns[0]!r}. No known shape has that.",
            remedy="Name the columns in the first line, for example prompt,completion (or text, for plain texts), "
            f"or set data.delimiter if the separator is an unusual one{_likely_delimiter(columns[0], sample)}.",
            code="unknown-shape",
        )
    headless = "If these are not names but a row, write a line of names above it. " * file.endswith(_TABLES)
    ways = _ways_out(names, sample)
    first = ", ".join(f"{part}: {column}" for part, column in ways[0].items())
    return DataError(
        f"{file}: No known shape has the columns {listed(columns)}.",
        remedy=f"{headless}{nested if PLACEHOLDERS in ways else ''}Name the column of each part: "
        f"{', or '.join(map(column_settings, ways))}, or data.columns: {{{first}}} in a run's settings.",
        code="unknown-shape",
    )


def _likely_delimiter(header: str, sample: Sequence[Record]) -> str:
    """Return the setting for a sign that occurs as often in each row as in the header; "" without one."""
    signs = [
        sign
        for sign in dict.fromkeys(header)
        if not sign.isalnum() and not sign.isspace() and sign not in '"_-'
    ]
    cells = [str(record.cells.get(header, "")) for record in sample]
    even = (sign for sign in signs if all(cell.count(sign) == header.count(sign) for cell in cells))
    sign = next(even, "")
    return f": {marked('data.delimiter', sign)}" if sign else ""


def _ways_out(names: Mapping[str, str], sample: Sequence[Record]) -> list[Mapping[str, str]]:
    """Return column maps that would read these rows, likeliest first; an example if the columns give no hint."""
    chats = [name for name in names.values() if any(is_conversation(each.cells.get(name)) for each in sample)]
    if len(chats) == 1:
        return [{"messages": chats[0]}]
    texts = [column.name for column in text_columns(sample, ()) if not WORSE.search(column.name.lower())]
    if twins := _twins(texts):
        prompts = [name for name in texts if name not in twins][:1]
        return [{**dict(zip(("prompt",), prompts, strict=False)), "chosen": twins[0], "rejected": twins[1]}]
    by_name = [column for name, column in names.items() if name in PART_NAMES and name not in AROUND_NAMES]
    prompts = [names[name] for name in (*QUESTIONS, "instruction", *DOCUMENTS) if name in names] + texts
    answers = [names[name] for name in (*ANSWERS, *DIGESTS, *CLASSES) if name in names]
    answers += texts[::-1] + by_name[::-1]
    pairs = [
        {"prompt": prompt, "completion": answer}
        for prompt in prompts[:1]
        for answer in answers
        if answer != prompt
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


def _twins(columns: Sequence[str]) -> list[str]:
    """Return the first two columns whose names differ only in a letter or number at the end, such as answer_a.

    They are likely two answers to compare; which one is better is not known.
    """
    stems: dict[str, list[str]] = {}
    for column in columns:
        if (stem := _TWIN.sub("", column.lower())) != column.lower():
            stems.setdefault(stem, []).append(column)
    return next((names[:2] for names in stems.values() if len(names) == 2), [])


def _file(sample: Sequence[Record]) -> str:
    return sample[0].place.rpartition(":")[0]
