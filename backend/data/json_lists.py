"""Choose which list of rows to read when one JSON object holds lists under names.

``{"data": [...]}`` only wraps its rows; ``{"train": [...], "test": [...]}`` holds several splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.data.chat import is_conversation
from backend.data.families import COLUMN_NAMES
from backend.data.locate import HELD_OUT, split_name, split_of
from backend.data.records import Skipped
from backend.errors import DataError
from backend.utils.text_utils import counted

WRAPPERS = ("data", "rows", "examples", "items", "records", "instances", "samples", "entries")


def lists_in(value: Any) -> dict[str, list[Any]]:
    """Return the lists of objects in an object that wraps rows, such as ``{"data": [...]}``, by name."""
    lists = value.items() if isinstance(value, dict) else ()
    return {key: inner for key, inner in lists if names_rows(key) and _holds_rows(inner)}


def names_rows(key: str) -> bool:
    """Return whether a key of an object is a usual name for a list of rows."""
    return key.lower() in WRAPPERS or split_of(key, whole=True) is not None


def _holds_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


class Lists:
    """The lists of one object, of which one is read: the first of ``split``, or the first that is not held out."""

    def __init__(self, name: str, split: str | None) -> None:
        self._name = name
        self._split = split
        self._taken = ""
        self._others: list[str] = []

    def takes(self, key: str) -> bool:
        """Return whether the rows of the list ``key`` are read."""
        belongs = split_of(key, whole=True)
        fits = belongs == split_name(self._split) if self._split else belongs not in HELD_OUT
        if not fits or self._taken:
            self._others.append(key)
            return False
        self._taken = key
        return True

    def skipped(self, key: str, count: int) -> Skipped:
        """Return the ``Skipped`` for the list ``key``, which is not read."""
        belongs = split_of(key, whole=True)
        what = f" of the split {belongs!r}" if belongs else ""
        return Skipped(f"{self._name}/{key}", f"another list, {counted(count, 'row')}{what}")

    def close(self) -> None:
        """Raise ``DataError`` if lists were found and none of them was read."""
        if self._others and not self._taken:
            raise DataError(
                f"{self._name} holds the lists {', '.join(self._others)}"
                + (
                    f", and none of the split {self._split!r}." if self._split else ", which are for testing."
                ),
                remedy=f"Say which one to read, for example {self._name}:{self._others[0]}",
                code="unknown-split",
            )

    def refuse_unknown(self, value: Mapping[str, Any]) -> None:
        """Raise ``DataError`` for an object with lists of rows under names that do not tell which to read."""
        found = {
            key: inner for key, inner in value.items() if _holds_rows(inner) and not is_conversation(inner)
        }
        if COLUMN_NAMES.isdisjoint(map(str.lower, value)) and any(len(inner) > 1 for inner in found.values()):
            shown = ", ".join(f"{key!r} ({counted(len(inner), 'row')})" for key, inner in found.items())
            raise DataError(
                f"{self._name} is one object with {counted(len(found), 'list')} of rows: {shown}.",
                remedy='Name the list "data" (others "validation" or "test"), or write each into a file of its own.',
                code="several-lists",
            )

    def none_here(self) -> None:
        """Raise ``DataError`` if a split was requested of a file that has no lists to choose from."""
        if self._split:
            raise no_such_split(self._name, self._split)


def no_such_split(name: str, split: str) -> DataError:
    """Return the error for a split that is requested of a file without splits."""
    return DataError(
        f"{name} is one file, and nothing in it says which rows are the split {split!r}.",
        remedy="Leave the split out, or take a slice such as [:80%].",
        code="unknown-split",
    )
