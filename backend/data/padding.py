"""Nulls that Arrow adds: every object of a column gets all keys of the others, and null where it had none.

In tools and in calls of tools such a null would be a parameter that nobody wrote; it is taken out before a row is
made. Files that were written from Arrow tables hold the same nulls spelled out, so that every container is looked at.
Text cells stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backend.data.records import Record
from backend.utils.text_utils import counted

_MESSAGE_PARTS = ("messages", "prompt", "completion", "chosen", "rejected", "history")
_CALLS = ("tool_calls", "function_call")


@dataclass
class Padding:
    """Count of the rows from which nulls were taken out, and the place of the first."""

    rows: int = 0
    place: str = ""

    @property
    def description(self) -> str:
        """The count as part of a sentence; "" where no nulls were taken out."""
        rows = counted(self.rows, "row")
        return f"nulls left out of tools and calls in {rows}, first at {self.place}" if self.rows else ""


def without_padding(
    records: Iterable[Record], columns: Mapping[str, str], found: Padding
) -> Iterator[Record]:
    """Yield the records without nulls in tools and calls, and note in ``found`` where there were some.

    ``columns``: which column holds which part.
    """
    tools = columns.get("tools")
    talks = [columns[part] for part in _MESSAGE_PARTS if part in columns]
    for record in records:
        changed = {
            name: _in_talk(value)
            for name in talks
            if isinstance(value := record.cells.get(name), list | dict)
        }
        if tools and isinstance(value := record.cells.get(tools), list | dict):
            changed[tools] = without_nulls(value)
        if all(record.cells[name] == value for name, value in changed.items()):
            yield record
            continue
        found.rows += 1
        found.place = found.place or record.place
        yield Record(record.place, {**record.cells, **changed})


def without_nulls(value: Any) -> Any:
    """Return a structure without the keys that hold null, and without objects that nulls alone made."""
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    if not isinstance(value, dict):
        return value
    stripped = {key: without_nulls(item) for key, item in value.items() if item is not None}
    return {key: item for key, item in stripped.items() if item != {} or value[key] == {}}


def _in_talk(value: Any) -> Any:
    """Messages, or an object that holds some, with the calls in them without nulls; null keys of messages stay."""
    if isinstance(value, list):
        return [_in_talk(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: without_nulls(item)
        if key in (*_CALLS, "tools") and isinstance(item, list | dict)
        else _deeper(key, item)
        for key, item in value.items()
    }


def _deeper(key: str, item: Any) -> Any:
    return _in_talk(item) if key == "messages" else item
