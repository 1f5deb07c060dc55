"""The types of the data package: what a reader yields, what is refused, and the row that is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from backend.utils.text_utils import writable

EXCERPT_CHARACTERS = 2_000

Message = dict[str, Any]
Kind = Literal["chat", "text", "preference", "judged", "tokens", "segments"]


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it stands in a file: ``place`` is ``name:line`` or ``name:row``, 1-based.

    Text cells are the text given, character for character; JSON numbers are ``exact_json.Spelled``.
    """

    place: str
    cells: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that cannot be used: where it stands, why, and the first characters of what is there."""

    place: str
    reason: str
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file of a folder or an archive, or a part of a file, that was not read, and why."""

    place: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "place", writable(self.place)
        )  # a file name may hold bytes that UTF-8 cannot


@dataclass(frozen=True, slots=True)
class Row:
    """One training row in canonical form.

    ``messages`` are dicts with ``role`` (system, user, assistant or tool) and ``content`` (text); a message
    may also hold ``"trained": False`` (no loss on it), ``tool_calls``, ``tool_call_id``, ``name``,
    ``reasoning_content`` and ``thinking``. A plain-text row has ``text`` and no messages. A preference row has
    ``chosen`` and ``rejected`` replies to ``messages``; an unpaired preference row has ``label``. A pre-tokenised
    row has ``input_ids`` and ``labels`` of the same length. ``segments`` are (text, trained) pieces of a row that
    wants no template. ``tools`` is a JSON string. ``group`` is the text of the group column, when one is set.
    """

    place: str
    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: str | None = None
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    label: bool | None = None
    segments: tuple[tuple[str, bool], ...] = ()
    input_ids: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    group: str | None = None

    @property
    def kind(self) -> Kind:
        """The kind of row, which decides what can be learned from it.

        ``preference``: two answers, one better than the other. ``judged``: an answer marked as good or bad.
        """
        if self.chosen or self.rejected:
            return "preference"
        if self.label is not None:
            return "judged"
        if self.input_ids:
            return "tokens"
        if self.segments:
            return "segments"
        return "chat" if self.text is None else "text"

    def answers(self) -> tuple[Row, ...]:
        """Return a preference row as two judged rows, the better answer first; any other row as it is.

        Only the judged answer is trained: what the assistant said before belongs to the prompt.
        """
        if self.kind == "judged":
            return (replace(self, messages=last_answer_trained(self.messages)),)
        if self.kind != "preference":
            return (self,)
        sides = ((self.chosen, True), (self.rejected, False))
        return tuple(
            replace(self, messages=(*untrained(self.messages), *reply), chosen=(), rejected=(), label=label)
            for reply, label in sides
        )

    def prompt_and_answer(self) -> tuple[str | list[Message], str] | None:
        """Return the prompt (text or messages) and the expected answer ("" if there is none, or a bad one only).

        None for rows of token ids and of segments, which have no prompt.
        """
        if self.text is not None:
            return self.text, ""
        if not self.messages:
            return None
        messages = list(self.answers()[0].messages)
        answer = str(messages.pop()["content"]) if messages[-1]["role"] == "assistant" else ""
        return messages, "" if self.label is False else answer

    def tool_list(self) -> list[dict[str, Any]] | None:
        """Return the tools as the list that a chat template takes, or None."""
        return None if self.tools is None else json.loads(self.tools)


def untrained(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with no loss on their answers."""
    return tuple(
        {**message, "trained": False} if message["role"] == "assistant" else message for message in messages
    )


def last_answer_trained(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return messages with nothing trained before the last one that is not the assistant's or a tool's."""
    asked = [number for number, each in enumerate(messages) if each["role"] not in {"assistant", "tool"}]
    start = asked[-1] + 1 if asked else 0
    return (*untrained(messages[:start]), *messages[start:])


def excerpt(text: str) -> str:
    """Return at most ``EXCERPT_CHARACTERS`` of a text, with an ellipsis where it was cut.

    Lone surrogates, which UTF-8 cannot hold, become escapes.
    """
    return writable(text if len(text) <= EXCERPT_CHARACTERS else text[: EXCERPT_CHARACTERS - 1] + "…")
