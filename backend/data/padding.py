"""Remove the nulls that Arrow adds: it gives every object of a column all keys of the others, null where absent.

In tools and tool calls such a null would be a parameter that nobody wrote. JSON written from Arrow tables holds the
same nulls, so files of every kind are treated. Text cells stay as they are.
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
    """The number of rows from which nulls were removed, and the place of the first."""

    rows: int = 0
    place: str = ""

    @property
    def description(self) -> str:
        """The count as part of a sentence; "" if no nulls were removed."""
        rows = counted(self.rows, "row")
        return f"nulls left out of tools and calls in {rows}, first at {self.place}" if self.rows else ""


def without_padding(
    records: Iterable[Record], columns: Mapping[str, str], found: Padding
) -> Iterator[Record]:
    """Yield the records without nulls in tools and tool calls, and count in ``found`` those that had some.

    ``columns`` maps parts to columns.
    """
    tools = columns.get("tools")
    message_columns = [columns[part] for part in _MESSAGE_PARTS if part in columns]
    for record in records:
        changed = {
            name: _in_messages(value)
            for name in message_columns
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
    """Return nested lists and objects without keys that hold null, and without objects of nothing but nulls."""
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    if not isinstance(value, dict):
        return value
    stripped = {key: without_nulls(item) for key, item in value.items() if item is not None}
    return {key: item for key, item in stripped.items() if item != {} or value[key] == {}}


def _in_messages(value: Any) -> Any:
    """Return messages, or an object with messages, without nulls in tools and calls; other null keys stay."""
    if isinstance(value, list):
        return [_in_messages(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: without_nulls(item)
        if key in (*_CALLS, "tools") and isinstance(item, list | dict)
        else _deeper(key, item)
        for key, item in value.items()
    }


def _deeper(key: str, item: Any) -> Any:
    return _in_messages(item) if key == "messages" else item
