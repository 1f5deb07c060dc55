"""Turn canonical rows back into records that every tool can read, this one included."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from backend.data.records import Message, Row


def row_record(row: Row) -> dict[str, Any]:
    """Return the row as a JSON object with the usual keys: messages, text, prompt with chosen and rejected."""
    record: dict[str, Any] = {}
    if row.chosen or row.rejected:
        record = {
            "prompt": _plain(row.messages),
            "chosen": _plain(row.chosen),
            "rejected": _plain(row.rejected),
        }
    elif row.messages:
        record = {"messages": _plain(row.messages)}
    elif row.text is not None:
        record = {"text": row.text}
    elif row.segments:
        record = {"segments": [{"label": trained, "text": text} for text, trained in row.segments]}
    elif row.input_ids:
        record = {"input_ids": list(row.input_ids), "labels": list(row.labels)}
    if row.label is not None:
        record["label"] = row.label
    if row.tools is not None:
        record["tools"] = row.tools
    if row.group is not None:
        record["group"] = row.group
    return record


def _plain(messages: Iterable[Message]) -> list[Message]:
    return [dict(message) for message in messages]
