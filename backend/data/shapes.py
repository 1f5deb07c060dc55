"""The shapes rows come in, each with the columns it needs and how its cells become a row.

A shape names *parts* (``prompt``, ``completion``, ``messages``, …); a mapping says which column holds each part.
``FAMILIES`` lists the column names people use, in the order in which a tie is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from backend.data.chat import bad_row, cell_text, is_conversation, json_text, read_json_cell, read_messages
from backend.data.records import Message, Row

Cells = Mapping[str, Any]
Columns = Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """Column names that mark a shape; ``required`` parts must be there, ``optional`` ones are used if they are."""

    shape: str
    required: Columns
    optional: Columns


def _pair(prompt: str, completion: str) -> Family:
    return Family(
        "prompt/completion",
        {"prompt": prompt, "completion": completion},
        {"system": "system", "tools": "tools"},
    )


_MESSAGES = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "turns")
_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("question", "answer"),
    ("question", "response"),
    ("q", "a"),
    ("query", "response"),
    ("query", "answer"),
    ("instruction", "response"),
    ("instruction", "completion"),
    ("input", "output"),
    ("input", "target"),
    ("source", "target"),
    ("user", "assistant"),
    ("human", "assistant"),
    ("text", "label"),
)
FAMILIES: tuple[Family, ...] = (
    *(Family("messages", {"messages": name}, {"system": "system", "tools": "tools"}) for name in _MESSAGES),
    Family(
        "alpaca",
        {"instruction": "instruction", "output": "output"},
        {"input": "input", "system": "system", "history": "history"},
    ),
    *(_pair(*names) for names in _PAIRS),
    Family("text", {"text": "text"}, {}),
    Family("text", {"text": "content"}, {}),
)


def build(shape: str, cells: Cells, columns: Columns, place: str) -> Row:
    """The row that ``cells`` hold when read as ``shape``; raises ``DataError`` with the reason it is none."""
    for part in REQUIRED[shape]:
        if columns[part] not in cells:
            raise bad_row(f"the field {columns[part]!r} is missing")
    row = _BUILDERS[shape](cells, columns, place)
    if "group" in columns:
        row = replace(row, group=cell_text(cells.get(columns["group"]), columns["group"]))
    return row


def _text(cells: Cells, columns: Columns, place: str) -> Row:
    return Row(place, text=cell_text(cells[columns["text"]], columns["text"]))


def _messages(cells: Cells, columns: Columns, place: str) -> Row:
    messages = read_messages(cells[columns["messages"]], columns["messages"])
    return Row(place, messages=_with_system(messages, cells, columns), tools=_tools(cells, columns))


def _prompt_completion(cells: Cells, columns: Columns, place: str) -> Row:
    answer = _turns(cells[columns["completion"]], columns["completion"], "assistant")
    prompt = _untrained(_turns(cells[columns["prompt"]], columns["prompt"], "user"))
    return Row(place, messages=(*_with_system(prompt, cells, columns), *answer), tools=_tools(cells, columns))


def _alpaca(cells: Cells, columns: Columns, place: str) -> Row:
    task = cell_text(cells[columns["instruction"]], columns["instruction"])
    extra = _optional_text(cells, columns, "input")
    messages = [
        *_history(cells, columns),
        {"role": "user", "content": f"{task}\n{extra}" if extra else task},
        {"role": "assistant", "content": cell_text(cells[columns["output"]], columns["output"])},
    ]
    return Row(place, messages=_with_system(tuple(messages), cells, columns))


def _history(cells: Cells, columns: Columns) -> list[Message]:
    value = cells.get(columns["history"]) if "history" in columns else None
    if value in (None, "", []):
        return []
    field = columns["history"]
    pairs = read_json_cell(value, field)
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise bad_row(f"the field {field!r} must be a list of [user, assistant] pairs")
    return [
        {"role": role, "content": cell_text(text, f"{field}[{number}]")}
        for number, pair in enumerate(pairs)
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def _turns(value: Any, field: str, role: str) -> tuple[Message, ...]:
    """A cell that holds either one text or a list of messages."""
    if is_conversation(value):
        return read_messages(value, field)
    return ({"role": role, "content": cell_text(value, field)},)


def _untrained(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return tuple(
        {**message, "trained": False} if message["role"] == "assistant" else message for message in messages
    )


def _with_system(messages: tuple[Message, ...], cells: Cells, columns: Columns) -> tuple[Message, ...]:
    system = _optional_text(cells, columns, "system")
    return ({"role": "system", "content": system}, *messages) if system else messages


def _tools(cells: Cells, columns: Columns) -> str | None:
    return json_text(cells.get(columns["tools"]), columns["tools"]) if "tools" in columns else None


def _optional_text(cells: Cells, columns: Columns, part: str) -> str:
    value = cells.get(columns[part]) if part in columns else None
    return cell_text(value, columns[part]) if value is not None else ""


_BUILDERS: Mapping[str, Callable[[Cells, Columns, str], Row]] = {
    "messages": _messages,
    "alpaca": _alpaca,
    "prompt/completion": _prompt_completion,
    "text": _text,
}
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "alpaca": ("instruction", "output"),
    "prompt/completion": ("prompt", "completion"),
    "text": ("text",),
}
OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "messages": ("system", "tools"),
    "alpaca": ("input", "system", "history"),
    "prompt/completion": ("system", "tools"),
    "text": (),
}
