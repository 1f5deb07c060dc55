"""Render a conversation again with marks in place of texts, to find where the template prints them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from backend.core.templates.template import (
    THOUGHTS,
    Message,
    Span,
    Tools,
    fresh_sentinel,
    parsed_arguments,
    render,
    special_tokens,
)
from backend.errors import DataError, ModelError
from backend.utils.text_utils import sentence

CONTENT = 0
"""The number of the mark in a message's content; marks in the arguments of its calls are numbered from 1."""


@dataclass(frozen=True)
class Chat:
    """A conversation and its rendered ``text``, which ends with the token ``added``, if any.

    ``ends``: the tokens at which the model stops generating.
    """

    tokenizer: PreTrainedTokenizerBase
    messages: Sequence[Message]
    tools: Tools | None
    text: str
    ends: frozenset[str]
    added: str = ""

    @cached_property
    def special(self) -> re.Pattern[str]:
        """A pattern for any special token."""
        return re.compile("|".join(map(re.escape, special_tokens(self.tokenizer))))

    @cached_property
    def word(self) -> str:
        """The beginning of every mark; the text does not contain it."""
        return fresh_sentinel(self.text)

    @cached_property
    def results(self) -> list[Span]:
        """The spans of tool results in the text."""
        tools = (index for index, message in enumerate(self.messages) if message.get("role") == "tool")
        return sorted(span for index in tools for span in printed(self, index) or ())

    def probe(self, messages: Sequence[Message], *, opens: bool = False) -> str:
        """Render other messages. Raises ModelError ``unmaskable-template`` if the template rejects them."""
        try:
            return render(self.tokenizer, messages, tools=self.tools, generation_prompt=opens)
        except DataError as error:
            raise unmaskable(
                "it takes this conversation, but not a copy of it in which an answer is marked: "
                f"{sentence(str(error.__cause__ or error.message))}",
                "prints every answer once",
            ) from error

    def tried(self, messages: Sequence[Message], *, opens: bool = False) -> str | None:
        """Return what ``probe`` does; None if the template rejects the messages."""
        try:
            return self.probe(messages, opens=opens)
        except ModelError:
            return None

    def replaced(self, others: Mapping[int, Message]) -> list[Message]:
        """Return the messages with ``others`` (index -> message) in their places."""
        return [others.get(index, message) for index, message in enumerate(self.messages)]


@dataclass(frozen=True)
class Marks:
    """A rendered text and the marks in it, in order."""

    text: str
    marks: tuple[re.Match[str], ...]

    @classmethod
    def of(cls, text: str, word: str) -> Marks:
        """Find the marks that begin with ``word``."""
        return cls(text, tuple(re.finditer(rf"{word}(\d+)Z", text)))

    @cached_property
    def numbers(self) -> list[int]:
        """The number of each mark."""
        return [int(found.group(1)) for found in self.marks]

    @property
    def tail(self) -> str:
        """The text after the last mark."""
        return self.text[self.marks[-1].end() :]

    def behind(self, number: int) -> str:
        """Return the text between mark ``number`` and the next one; "" if there is no such mark."""
        if number not in self.numbers:
            return ""
        place = self.numbers.index(number)
        stop = self.marks[place + 1].start() if place + 1 < len(self.marks) else len(self.text)
        return self.text[self.marks[place].end() : stop]


def mark(message: Message, word: str) -> tuple[dict[str, Any], bool]:
    """Return an assistant message with marks in place of its texts and without reasoning, and a flag.

    Every text in the arguments of its calls becomes a mark; function names stay, since templates print them again
    with the results. If the last call has no text, an argument with a mark is added, and the flag is True.
    """
    calls = message.get("tool_calls") or ()
    numbers = itertools.count(CONTENT + 1)
    marked: list[dict[str, Any]] = []
    loose = False
    for place, call in enumerate(calls, 1):
        arguments = parsed_arguments(call["function"].get("arguments", {}))
        changed = _mark_texts(arguments, lambda: f"{word}{next(numbers)}Z")
        loose = place == len(calls) and changed == arguments and isinstance(changed, dict)
        if loose:
            changed = changed | {word: f"{word}{next(numbers)}Z"}
        marked.append({**call, "function": {**call["function"], "arguments": changed}})
    kept = {key: value for key, value in message.items() if key not in THOUGHTS}
    if not calls or str(message.get("content") or "").strip():
        kept["content"] = f"{word}{CONTENT}Z"
    return kept | ({"tool_calls": marked} if calls else {}), loose


def _mark_texts(value: Any, next_mark: Callable[[], str]) -> Any:
    """Return ``value`` with a mark in place of every text in it, at any depth."""
    match value:
        case str() if value:
            return next_mark()
        case dict():
            return {key: _mark_texts(each, next_mark) for key, each in value.items()}
        case list():
            return [_mark_texts(each, next_mark) for each in value]
        case _:
            return value


def printed(chat: Chat, index: int) -> list[Span] | None:
    """Return the spans where the template prints a message's content; None if they depend on the content."""
    content = chat.messages[index].get("content")
    if not isinstance(content, str) or not content:
        return []
    text = chat.tried(chat.replaced({index: {**chat.messages[index], "content": chat.word}}))
    if text is None:
        return None
    pieces = (text + chat.added).split(chat.word)
    if len(pieces) == 1:
        return []
    length, rest = divmod(len(chat.text) - sum(map(len, pieces)), len(pieces) - 1)
    begin = len(pieces[0])
    if rest or length < 0 or chat.text[begin : begin + length].join(pieces) != chat.text:
        return None
    begins = itertools.accumulate((len(piece) + length for piece in pieces[1:-1]), initial=begin)
    return [(begin, begin + length) for begin in begins]


def opening(chat: Chat, messages: Sequence[Message]) -> str:
    """Return the text that the generation prompt adds to ``messages``; "" if it is not a plain suffix."""
    closed, opened = chat.tried(messages), chat.tried(messages, opens=True)
    return opened[len(closed) :] if closed and opened and opened.startswith(closed) else ""


def common(one: str, other: str) -> int:
    """Return the number of characters that both texts begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def whole_tokens(chat: Chat, text: str, place: int, *, up: bool) -> int:
    """Return ``place``; if it is inside a special token, the end (``up``) or the beginning of that token."""
    cut = (found.span() for found in chat.special.finditer(text))
    return next((stop if up else start for start, stop in cut if start < place < stop), place)


def unmaskable(reason: str, wanted: str) -> ModelError:
    """Return the error for a template whose answers cannot be located; ``wanted`` says what it should do."""
    return ModelError(
        sentence(f"This model's chat template cannot be masked: {reason}"),
        code="unmaskable-template",
        remedy=f"Set model.chat_template to a template that {wanted}, or give that message the weight 0.",
    )
