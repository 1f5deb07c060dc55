"""Canonical rows back into JSONL that every tool reads, this one included."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backend.data.records import Message, Row


def row_record(row: Row) -> dict[str, Any]:
    """The row as one JSON object in the usual names: messages, text, prompt with chosen and rejected, and so on."""
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


def write_jsonl(rows: Iterable[Row], path: Path) -> int:
    """Write one record a line and return how many rows there were."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row_record(row), ensure_ascii=False) + "\n")
            count += 1
    return count


def _plain(messages: Iterable[Message]) -> list[Message]:
    return [dict(message) for message in messages]
