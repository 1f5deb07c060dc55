"""The words of a row: its prompt, its answers, all of its texts, and the row with its texts changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from backend.data.records import Message, Row


def prompt_text(row: Row) -> str:
    """Everything before the first assistant message, a line a message; a row without messages is its own text."""
    parts = []
    for message in row.messages:
        if message["role"] == "assistant":
            break
        parts.append(message["content"])
    if row.messages:
        return "\n".join(parts)
    return row.text or "".join(text for text, trained in row.segments if not trained)


def answers(row: Row) -> list[str]:
    """The texts that the row teaches: trained assistant messages, the chosen reply, trained segments or the text."""
    if row.text is not None:
        return [row.text]
    if row.segments:
        return [text for text, trained in row.segments if trained]
    replies = row.chosen or row.messages
    return [
        message["content"]
        for message in replies
        if message["role"] == "assistant" and message.get("trained", True)
    ]


def answer_text(row: Row) -> str:
    """The texts that the row teaches, one after the other, a line each."""
    return "\n".join(answers(row))


def texts(row: Row) -> Iterator[str]:
    """Every text of the row, in order."""
    for message in (*row.messages, *row.chosen, *row.rejected):
        yield message["content"]
    if row.text is not None:
        yield row.text
    for text, _ in row.segments:
        yield text


def map_texts(row: Row, change: Callable[[str], str]) -> Row:
    """The row with ``change`` applied to every text; the same object when nothing changed."""

    def changed(messages: Sequence[Message]) -> tuple[Message, ...]:
        return tuple({**message, "content": change(message["content"])} for message in messages)

    result = replace(
        row,
        messages=changed(row.messages),
        chosen=changed(row.chosen),
        rejected=changed(row.rejected),
        text=None if row.text is None else change(row.text),
        segments=tuple((change(text), trained) for text, trained in row.segments),
    )
    return row if result == row else result
