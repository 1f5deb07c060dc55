"""The texts of a row: prompt, question, answers, every text; and the row with its texts changed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from backend.data.records import Message, Row

_REASONING_KEYS = ("reasoning_content", "thinking")
"""Keys of a message, besides its content, that hold text written by the model."""


def is_trained(message: Message) -> bool:
    """Return whether a message is an assistant message with loss on it."""
    return message["role"] == "assistant" and bool(message.get("trained", True))


def prompt_messages(row: Row) -> tuple[Message, ...]:
    """Return the messages before the last trained answer; all messages of a preference row.

    If no answer is trained, those before the last answer; if there is no answer, all of them.
    """
    if row.chosen or row.rejected:
        return row.messages
    answered = [number for number, message in enumerate(row.messages) if is_trained(message)]
    answered = answered or [n for n, message in enumerate(row.messages) if message["role"] == "assistant"]
    return row.messages[: answered[-1]] if answered else row.messages


def wanted(row: Row) -> Row:
    """Return a row without what the model should not learn to write: rejected replies and bad answers."""
    if row.rejected:
        return replace(row, rejected=())
    return replace(row, messages=prompt_messages(row)) if row.label is False else row


def calls_text(message: Message) -> str:
    """Return the tool calls of a message as JSON, without their ids; "" if it has none."""
    calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
    return json.dumps(calls, ensure_ascii=False, sort_keys=True) if calls else ""


def message_text(message: Message) -> str:
    """Return the content of a message and, on a line of its own, its tool calls as JSON."""
    calls = calls_text(message)
    return "\n".join(filter(None, (message["content"], calls))) if calls else str(message["content"])


def prompt_text(row: Row) -> str:
    """Return everything before the last trained answer, one message per line; of a text row its text."""
    if row.messages:
        return "\n".join(map(message_text, prompt_messages(row)))
    return row.text or "".join(text for text, trained in row.segments if not trained)


def question_text(row: Row) -> str:
    """Return the prompt and the tools of a row: the key by which leaks, conflicts and splits compare rows.

    A row without a prompt is compared by its answer, or by its token ids up to the first trained one.
    """
    prompt = prompt_text(row)
    if not prompt.strip():
        return answer_text(row) or _unlearned_ids(row)
    return f"{prompt}\n{row.tools}" if row.tools else prompt


def _unlearned_ids(row: Row) -> str:
    before = itertools.takewhile(lambda pair: pair[1] < 0, zip(row.input_ids, row.labels, strict=True))
    return " ".join(map(str, [each for each, _ in before] or row.input_ids))


def answers(row: Row) -> list[str]:
    """Return the texts to learn: trained assistant messages, the chosen reply, trained segments or the text.

    An answer that is judged bad is none.
    """
    if row.label is False:
        return []
    if row.text is not None:
        return [row.text]
    if row.segments:
        return [text for text, trained in row.segments if trained]
    return [message["content"] for message in row.chosen or row.messages if is_trained(message)]


def answer_text(row: Row) -> str:
    """Return the trained texts one per line, with their tool calls."""
    if row.text is not None or row.segments:
        return "\n".join(answers(row))
    return "\n".join(message_text(message) for message in row.chosen or row.messages if is_trained(message))


def last_reply(row: Row) -> str:
    """Return the last trained answer with its tool calls; "" if there is none."""
    replies = [message_text(message) for message in row.chosen or row.messages if is_trained(message)]
    return replies[-1] if replies else "\n".join(answers(row))


def texts(row: Row) -> Iterator[str]:
    """Yield every text of the row: contents, reasoning, arguments of tool calls, plain text and segments."""
    for message in (*row.messages, *row.chosen, *row.rejected):
        yield message["content"]
        yield from (message[key] for key in _REASONING_KEYS if key in message)
        for call in message.get("tool_calls") or ():
            yield from leaves(call.get("function", call).get("arguments"))
    if row.text is not None:
        yield row.text
    for text, _ in row.segments:
        yield text


def leaves(value: Any) -> Iterator[str]:
    """Yield every text inside nested lists and objects, without the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from leaves(each)


def map_leaves(value: Any, change: Callable[[str], str]) -> Any:
    """Return the value with ``change`` applied to every text of ``leaves``; numbers stay as they are spelled."""
    if type(value) is str:  # not a subclass: Spelled is a number
        return change(value)
    if isinstance(value, dict):
        return {key: map_leaves(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [map_leaves(each, change) for each in value]
    return value


def map_texts(row: Row, change: Callable[[str], str]) -> Row:
    """Return the row with ``change`` applied to every text of ``texts``; the same object if nothing changed."""

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
    result |= {key: change(message[key]) for key in _REASONING_KEYS if key in message}
    if message.get("tool_calls"):
        result["tool_calls"] = [_map_call(call, change) for call in message["tool_calls"]]
    return result


def _map_call(call: Any, change: Callable[[str], str]) -> Any:
    function = call.get("function", call)
    if "arguments" not in function:
        return call
    mapped = {**function, "arguments": map_leaves(function["arguments"], change)}
    return {**call, "function": mapped} if "function" in call else mapped
