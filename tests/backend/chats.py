"""Rows that are chats, for the tests of what becomes of rows."""

from __future__ import annotations

from typing import Any

from backend.data.records import Row


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def chat(place: str, *texts: str) -> Row:
    """A row whose texts are said by user and assistant in turns."""
    turns = [(assistant if number % 2 else user)(text) for number, text in enumerate(texts)]
    return Row(place, messages=tuple(turns))
