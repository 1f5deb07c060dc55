"""Read plain text and Markdown: a row per line, or the whole file as one row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TextIO

from backend.data.exact_json import surrogate_reason
from backend.data.families import COLUMN_NAMES
from backend.data.lines import bounded_lines, without_ending
from backend.data.records import Record, Rejected, excerpt


def read_text(stream: TextIO, name: str, limit: int, *, whole_file: bool) -> Iterator[Record | Rejected]:
    """Yield records with the one cell ``text``; lines of nothing but white space are skipped.

    ``limit`` is the most characters a line, or the whole file, may have.
    """
    if whole_file:
        text = stream.read(limit + 1)
        if text.strip():
            yield _record(text, f"{name}:1", too_long=len(text) > limit, limit=limit)
        return
    for number, text, too_long in bounded_lines(stream, limit):
        if not text.isspace():
            yield _record(without_ending(text), f"{name}:{number}", too_long=too_long, limit=limit)


def _record(text: str, place: str, *, too_long: bool, limit: int) -> Record | Rejected:
    if too_long:
        return Rejected(place, f"the row has more than {limit:,} characters", excerpt(text))
    if reason := surrogate_reason(text):
        return Rejected(place, reason, excerpt(text))
    return Record(place, {"text": text})


def proper_suffix(lines: Sequence[str]) -> str:
    """Return the suffix of the file format that lines of plain text look like; "" if they look like none."""
    if lines and all(line.lstrip().startswith("{") and line.rstrip(", ").endswith("}") for line in lines):
        return ".jsonl"
    for delimiter, ending in ((",", ".csv"), (";", ".csv"), ("\t", ".tsv")):
        names = [name.strip().strip('"').lower() for name in lines[0].split(delimiter)] if lines else []
        if len(lines) > 1 and len(COLUMN_NAMES.intersection(names)) > 1:
            return ending
    return ""
