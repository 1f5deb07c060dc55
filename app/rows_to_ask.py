"""Read a small file of prompts, given to the playground, into conversations."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from backend.errors import InferenceError

MAX_ROWS = 10_000
Conversation = list[dict[str, str]]


def read_prompts(name: str, content: bytes) -> list[Conversation]:
    """Return the conversations in a TXT, JSONL or CSV file, in order. Raises InferenceError naming the row."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad(f"{name} is not UTF-8 (byte {error.start})") from error
    suffix = name.rpartition(".")[2].lower()
    reader = {"jsonl": _jsonl, "csv": _csv}.get(suffix, _lines)
    rows = reader(name, text)
    if not rows:
        raise _bad(f"{name} holds no prompt")
    if len(rows) > MAX_ROWS:
        raise _bad(f"{name} holds {len(rows):,} prompts; this page takes {MAX_ROWS:,}")
    return rows


def _lines(_: str, text: str) -> list[Conversation]:
    return [_question(line) for line in _split(text) if line.strip()]


def _split(text: str) -> list[str]:
    """The lines of a file; a line separator of Unicode inside a text ends none, as ``str.splitlines`` has it."""
    return io.StringIO(text, newline=None).read().split("\n")


def _jsonl(name: str, text: str) -> list[Conversation]:
    rows = []
    for number, line in enumerate(_split(text), 1):
        if line.strip():
            try:
                rows.append(_conversation(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise _bad(f"{name}:{number} has neither a prompt nor messages") from error
    return rows


def _csv(name: str, text: str) -> list[Conversation]:
    reader = csv.DictReader(io.StringIO(text))
    if "prompt" not in (reader.fieldnames or ()):
        raise _bad(f"{name} has no column called prompt")
    return [_question(row["prompt"]) for row in reader if (row["prompt"] or "").strip()]


def _conversation(row: Any) -> Conversation:
    turns = row["messages"] if "messages" in row else row["prompt"]
    if isinstance(turns, list):  # the prompt of pairs of answers may be a conversation too
        found = [{"role": str(each["role"]), "content": str(each["content"])} for each in turns]
        while found and found[-1]["role"] == "assistant":  # the expected answer
            found.pop()
        if not found:
            raise ValueError("nothing is asked")
        return found
    return _question(str(turns))


def _question(text: str) -> Conversation:
    return [{"role": "user", "content": text}]


def _bad(what: str) -> InferenceError:
    return InferenceError(f"{what}.", remedy="Give a prompt a line, or a column prompt.", code="bad-prompts")
