"""Count keys of messages that are not read, while rows stream by, so that nothing is dropped in silence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from backend.data.chat import MESSAGE_KEYS, as_given, is_flag, is_message, read_json_cell
from backend.data.column_words import names_rating
from backend.data.records import Record
from backend.errors import DataError
from backend.utils.text_utils import counted, shorten

# Keys that exports and logs add to messages for their own bookkeeping.
HARMLESS = frozenset(
    {
        *("id", "message_id", "msg_id", "uuid", "parent", "parent_id", "author", "model", "model_name"),
        *("index", "turn", "turn_id", "order", "position", "status", "metadata", "meta", "recipient"),
        *("time", "date", "timestamp", "created", "created_at", "create_time", "updated_at", "update_time"),
        *("lang", "language", "tokens", "num_tokens", "token_count", "end_turn", "refusal", "annotations"),
        *("redacted", "toxic", "streaming", "is_streaming", "synthetic", "edited", "pinned", "finished"),
    }
)
_PARTS = ("messages", "prompt", "completion", "chosen", "rejected")
_MAX_KEYS = 50


@dataclass(frozen=True, slots=True)
class UnreadKey:
    """A filled key of messages that is not read: in how many rows, and where first.

    ``is_flag``: its values are only true, false, 0 and 1, or it is named like a rating, so it may say what to train.
    """

    key: str
    rows: int
    place: str
    is_flag: bool = False

    @property
    def harmless(self) -> bool:
        """True if it is a usual name for bookkeeping."""
        return self.key.lower() in HARMLESS

    @property
    def description(self) -> str:
        """The key as part of a sentence, with the key that is probably meant."""
        near = difflib.get_close_matches(self.key.lower(), MESSAGE_KEYS, n=1, cutoff=0.75)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        return f"{shorten(repr(self.key), 60)} in {counted(self.rows, 'row')}, first at {self.place}{meant}"


def note_unread(
    records: Iterable[Record], columns: Mapping[str, str], found: dict[str, UnreadKey]
) -> Iterator[Record]:
    """Yield the records unchanged and count in ``found`` the keys of their messages that are not read.

    ``columns`` maps parts to columns. At most 50 keys are counted.
    """
    parts = [(part, columns[part]) for part in _PARTS if part in columns]
    for record in records:
        keys: dict[str, bool] = {}
        for part, column in parts:
            value = record.cells.get(column)
            if part != "messages":
                value = _messages(value, column)
            if isinstance(value, list | dict) or part == "messages":
                for key, given in _unread(_turns(value)):
                    keys[key] = keys.get(key, True) and (is_flag(given) or names_rating(key))
        for key, flag in sorted(keys.items()):
            known = found.get(key)
            if known is not None:
                found[key] = replace(known, rows=known.rows + 1, is_flag=known.is_flag and flag)
            elif len(found) < _MAX_KEYS:
                found[key] = UnreadKey(key, 1, record.place, flag)
        yield record


def _messages(value: Any, column: str) -> Any:
    """Return the value of a cell, with messages in JSON text decoded."""
    try:
        return as_given(value, column)
    except DataError:  # the row is rejected for it
        return None


def _turns(value: Any) -> Any:
    """Return the list of messages in a cell, or None."""
    if isinstance(value, str):
        try:
            return read_json_cell(value, "messages")
        except DataError:  # the row is rejected for it
            return None
    if isinstance(value, dict):
        return [value] if is_message(value) else value.get("messages")
    return value


def _unread(turns: Any) -> Iterator[tuple[str, Any]]:
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, dict) and not turn.keys() <= MESSAGE_KEYS:
            keys = turn.keys() - MESSAGE_KEYS
            yield from ((key, turn[key]) for key in keys if turn[key] not in (None, "", [], {}))
