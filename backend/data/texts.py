"""The words of a row: what it asks, what it answers, all of its texts, and the row with its texts changed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from backend.data.records import Message, Row

_BESIDE = ("reasoning_content", "thinking")
"""Keys of a message that hold words of the model beside its content."""


def is_trained(message: Message) -> bool:
    """Return whether a message is an answer that the model learns."""
    return message["role"] == "assistant" and bool(message.get("trained", True))


def prompt_messages(row: Row) -> tuple[Message, ...]:
    """The messages before the last answer that is trained; of a preference row all of its messages.

    Where no answer is trained it is the last answer that counts, and without one every message is asked.
    """
    if row.chosen or row.rejected:
        return row.messages
    answered = [number for number, message in enumerate(row.messages) if is_trained(message)]
    answered = answered or [n for n, message in enumerate(row.messages) if message["role"] == "assistant"]
    return row.messages[: answered[-1]] if answered else row.messages


def calls_text(message: Message) -> str:
    """The tool calls of a message as JSON, without their ids; "" when it has none."""
    calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
    return json.dumps(calls, ensure_ascii=False, sort_keys=True) if calls else ""


def message_text(message: Message) -> str:
    """The content of a message and, on a line of its own, the tools it calls."""
    calls = calls_text(message)
    return "\n".join(filter(None, (message["content"], calls))) if calls else str(message["content"])


def prompt_text(row: Row) -> str:
    """Everything before the last answer that is trained, a line a message; a row without messages is its own text."""
    if row.messages:
        return "\n".join(map(message_text, prompt_messages(row)))
    return row.text or "".join(text for text, trained in row.segments if not trained)


def question_text(row: Row) -> str:
    """What a row asks, tools included: the key of leaks, conflicts and splits.

    A row that asks nothing is its own question: its answer, or its token ids up to the first that is learned.
    """
    prompt = prompt_text(row)
    if not prompt.strip():
        return answer_text(row) or _unlearned_ids(row)
    return f"{prompt}\n{row.tools}" if row.tools else prompt


def _unlearned_ids(row: Row) -> str:
    before = itertools.takewhile(lambda pair: pair[1] < 0, zip(row.input_ids, row.labels, strict=True))
    return " ".join(map(str, [each for each, _ in before] or row.input_ids))


def answers(row: Row) -> list[str]:
    """The texts that the row teaches: trained assistant messages, the chosen reply, trained segments or the text."""
    if row.text is not None:
        return [row.text]
    if row.segments:
        return [text for text, trained in row.segments if trained]
    return [message["content"] for message in row.chosen or row.messages if is_trained(message)]


def answer_text(row: Row) -> str:
    """All that the row teaches, one after the other, a line each: its answers with the tools they call."""
    if row.text is not None or row.segments:
        return "\n".join(answers(row))
    return "\n".join(message_text(message) for message in row.chosen or row.messages if is_trained(message))


def last_reply(row: Row) -> str:
    """The last answer that the row teaches, with the tools it calls; "" when it teaches none."""
    replies = [message_text(message) for message in row.chosen or row.messages if is_trained(message)]
    return replies[-1] if replies else "\n".join(answers(row))


def texts(row: Row) -> Iterator[str]:
    """Every text of the row: contents, reasoning, the arguments of tool calls, plain text and segments."""
    for message in (*row.messages, *row.chosen, *row.rejected):
        yield message["content"]
        yield from (message[key] for key in _BESIDE if key in message)
        for call in message.get("tool_calls") or ():
            yield from leaves(call.get("function", call).get("arguments"))
    if row.text is not None:
        yield row.text
    for text, _ in row.segments:
        yield text


def leaves(value: Any) -> Iterator[str]:
    """Every text inside a value of lists and objects, names of keys left aside."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from leaves(each)


def map_leaves(value: Any, change: Callable[[str], str]) -> Any:
    """The value with ``change`` applied to every text of ``leaves``; numbers as text stay what they are."""
    if type(value) is str:
        return change(value)
    if isinstance(value, dict):
        return {key: map_leaves(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [map_leaves(each, change) for each in value]
    return value


def map_texts(row: Row, change: Callable[[str], str]) -> Row:
    """The row with ``change`` applied to every text of ``texts``; the same object when nothing changed."""

    def changed(messages: Sequence[Message]) -> tuple[Message, ...]:
        return tuple(_map_message(message, change) for message in messages)

    result = replace(
        row,
        messages=changed(row.messages),
        chosen=changed(row.chosen),
        rejected=changed(row.rejected),
        text=None if row.text is None else change(row.text),
        segments=tuple((change(text), trained) for text, trained in row.segments),
    )
    return row if result == row else result


def _map_message(message: Message, change: Callable[[str], str]) -> Message:
    result = {**message, "content": change(message["content"])}
    result |= {key: change(message[key]) for key in _BESIDE if key in message}
    if message.get("tool_calls"):
        result["tool_calls"] = [_map_call(call, change) for call in message["tool_calls"]]
    return result


def _map_call(call: Any, change: Callable[[str], str]) -> Any:
    function = call.get("function", call)
    if "arguments" not in function:
        return call
    mapped = {**function, "arguments": map_leaves(function["arguments"], change)}
    return {**call, "function": mapped} if "function" in call else mapped
