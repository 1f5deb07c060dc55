"""Read conversations in every usual spelling into canonical messages.

Roles become system, user, assistant and tool; content stays text exactly as given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from backend.data.exact_json import Spelled, decode, plain
from backend.data.records import Message
from backend.errors import DataError

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "ai": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "tool_response": "tool",
}
_KEPT = ("name", "tool_call_id", "reasoning_content", "thinking")
TRAINED_KEYS = (
    *("trained", "train", "training", "trainable"),  # axolotl, verl
    *("weight", "loss_weight", "loss", "loss_mask"),  # OpenAI, LLaMA-Factory, ms-swift, verl
)
MASKED_KEYS = ("masked",)  # torchtune, the other way round
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
MESSAGE_KEYS = frozenset(
    {
        "role",
        "from",
        "content",
        "value",
        "tool_calls",
        "function_call",
        *_KEPT,
        *TRAINED_KEYS,
        *MASKED_KEYS,
        *MEDIA,
    }
)
"""Every key of a message that is read."""
_TRAINED = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}

_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_CALL = "a tool call; write it among the tool_calls of its message"
_RESULT = "the result of a tool; write it as a message of the role tool"
_REASONING = "reasoning; write it as the reasoning_content of its message"
_OTHER_PARTS = {
    **dict.fromkeys(("tool_use", "server_tool_use", "tool_call", "function_call", "toolUse"), _CALL),
    **dict.fromkeys(("tool_result", "tool_response", "function_call_output", "toolResult"), _RESULT),
    **dict.fromkeys(("thinking", "redacted_thinking", "reasoning", "reasoningContent"), _REASONING),
    **dict.fromkeys(
        ("document", "refusal", "guardContent", "cachePoint"), "no plain text; write its words as text"
    ),
}
"""Content parts that are neither text nor media, by type (Anthropic, OpenAI, LLaMA-Factory) or only key (Bedrock):
what each is and how to write it here."""

_BEGINS_AS_MESSAGES = re.compile(r"\s*(?:\[\s*)?\{\s*[\"']")
_WRITTEN_BY_STR = re.compile(r"\s*\[\s*\{\s*'(?:role|from|content|value)'\s*:.*\}\s*\]\s*\Z", re.DOTALL)


def bad_row(reason: str) -> DataError:
    """Return the error that refuses one row; the caller adds the place."""
    return DataError(reason, remedy="", code="bad-row")


def cell_text(value: Any, field: str) -> str:
    """Return the text of a cell; numbers, true and false as they are spelled in the file.

    Raises ``DataError`` for null, a list or an object.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if value is None:
        raise bad_row(f"the field {field!r} is null; write a text")
    if (
        isinstance(value, Sequence)
        and value
        and all(isinstance(each, Mapping) and "text" in each for each in value)
    ):
        raise bad_row(f"the field {field!r} holds parts where a text belongs; write their words as one text")
    kind = "a list" if isinstance(value, Sequence) and not isinstance(value, bytes) else "an object"
    if isinstance(value, bytes):
        kind = "binary data"
    raise bad_row(
        f"the field {field!r} holds {kind} where a text belongs; write it as a text in quotation marks"
    )


def refuse_media(cells: Mapping[str, Any], of: str = "") -> None:
    """Raise ``DataError`` when a row, or the message ``of``, has images, audio or video."""
    for field in MEDIA:
        if cells.get(field):
            raise bad_row(
                f"the field {f'{of}{field}'!r} is filled; only text can be trained, images, audio and video cannot"
            )


def read_messages(value: Any, field: str) -> tuple[Message, ...]:
    """Return canonical messages from a list of objects with role and content (or from and value), or its JSON.

    Raises ``DataError`` naming the turn and what is wrong with it.
    """
    turns = read_json_cell(value, field)
    if not isinstance(turns, list):
        raise bad_row(f"the field {field!r} must be a list of messages")
    if not turns:
        raise bad_row(f"the field {field!r} is an empty list; a conversation needs at least one message")
    return tuple(read_message(turn, f"{field}[{number}]") for number, turn in enumerate(turns))


def read_json_cell(value: Any, field: str) -> Any:
    """Return a structured cell, parsed if it is JSON text, as in CSV files."""
    if not isinstance(value, str) or isinstance(value, Spelled):
        return value
    try:
        return decode(value)
    except ValueError as error:
        python = "; Python's str() wrote it, json.dumps would do" if value.lstrip("[{ ")[:1] == "'" else ""
        raise bad_row(f"the field {field!r} holds text that is not JSON: {error}{python}") from None


def json_text(value: Any, field: str) -> str | None:
    """Return a structured cell as one JSON string, None if it is empty."""
    parsed = plain(read_json_cell(value, field)) if value not in (None, "") else None
    return json.dumps(parsed, ensure_ascii=False) if parsed else None


def as_given(value: Any, field: str) -> Any:
    """Return the messages in a text cell that is nothing but messages as JSON; any other cell as it is.

    Raises ``DataError`` for messages written by Python's ``str()``, which is not JSON.
    """
    if not isinstance(value, str) or isinstance(value, Spelled) or not _BEGINS_AS_MESSAGES.match(value):
        return value
    try:
        found = decode(value)
    except ValueError:
        if _WRITTEN_BY_STR.match(value):
            raise bad_row(
                f"the field {field!r} holds messages as Python's str() wrote them; json.dumps would do"
            ) from None
        return value
    return found if is_conversation(found) or is_message(found) else value


def is_message(value: Any) -> bool:
    """Return whether a cell holds one message: an object with a role and a text."""
    return (
        isinstance(value, Mapping)
        and ("role" in value or "from" in value)
        and bool({"content", "value", "tool_calls"} & value.keys())
    )


def is_conversation(value: Any) -> bool:
    """Return whether a cell holds messages: a non-empty list of objects with a role each."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)
    )


def read_message(turn: Any, field: str) -> Message:
    """Return the canonical message of an object with a role; raises ``DataError`` naming what is wrong with it."""
    if not isinstance(turn, Mapping):
        raise bad_row(f"{field} must be an object with role and content")
    given = turn.get("role", turn.get("from"))
    role = ROLES.get(str(given).strip().lower())
    if role is None:
        what = "has no role" if given is None else f"has the unknown role {given!r}"
        raise bad_row(f"{field} {what}; use system, user, assistant or tool")
    refuse_media(turn, f"{field}.")
    calls = _tool_calls(turn, str(given), field)
    message: Message = {
        "role": role,
        "content": "" if calls and given == "function_call" else _content(turn, field, calls),
    }
    if calls:
        message["tool_calls"] = calls
    message.update(
        {key: cell_text(turn[key], f"{field}.{key}") for key in _KEPT if turn.get(key) is not None}
    )
    if not _trained(turn, field):
        message["trained"] = False
    return message


def _content(turn: Mapping[str, Any], field: str, calls: list[dict[str, Any]]) -> str:
    key = "content" if "content" in turn or "value" not in turn else "value"
    value = turn.get(key)
    if value is None and calls:
        return ""
    if isinstance(value, list):
        return "".join(_part(part, f"{field}.{key}[{number}]") for number, part in enumerate(value))
    other = next((name for name in ("text", "parts", "message") if turn.get(name)), None)
    if key not in turn and other:
        raise bad_row(f"{field} has no content, but {other!r}; call it content")
    return cell_text(value, f"{field}.{key}")


def _part(part: Any, field: str) -> str:
    if isinstance(part, str):
        return str(part)
    if not isinstance(part, Mapping):
        raise bad_row(f"{field} must be a text or an object with type and text")
    named = next((key for key in part if key in _OTHER_PARTS or key in MEDIA), "text")
    kind = str(part.get("type", "text" if "text" in part or "value" in part else named))
    if kind in _OTHER_PARTS:
        raise bad_row(f"{field} is of type {kind!r}: {_OTHER_PARTS[kind]}")
    if kind not in _TEXT_PARTS:
        raise bad_row(
            f"{field} is of type {kind!r}; only text can be trained, images, audio and video cannot"
        )
    return cell_text(part.get("text", part.get("value")), f"{field}.text")


def _tool_calls(turn: Mapping[str, Any], role: str, field: str) -> list[dict[str, Any]]:
    given = turn.get("tool_calls")
    if given is None and turn.get("function_call") is not None:
        given = [{"type": "function", "function": turn["function_call"]}]
    if given is None and role == "function_call":
        call = read_json_cell(turn.get("value", turn.get("content")), f"{field}.value")
        given = call if isinstance(call, list) else [call]
    if given is None:
        return []
    calls = read_json_cell(given, f"{field}.tool_calls")
    if not isinstance(calls, list):
        raise bad_row(f"{field}.tool_calls must be a list")
    return [_tool_call(call, f"{field}.tool_calls[{number}]") for number, call in enumerate(calls)]


def _tool_call(call: Any, field: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise bad_row(f"{field} must hold a function with a name")
    arguments = function.get("arguments", {})
    result: dict[str, Any] = {
        "type": "function",
        "function": {"name": str(function["name"]), "arguments": plain(arguments)},
    }
    if isinstance(call.get("id"), str):
        result["id"] = str(call["id"])
    return result


def _trained(turn: Mapping[str, Any], field: str) -> bool:
    """Return whether the flags of a message let it be trained.

    Raises ``DataError`` for a flag that is neither true nor false, and for flags that contradict each other.
    """
    flags: dict[str, bool] = {}
    for key in (*TRAINED_KEYS, *MASKED_KEYS):
        if turn.get(key) is not None:
            spelling = cell_text(turn[key], f"{field}.{key}")
            if spelling.lower() not in _TRAINED:
                raise bad_row(f"{field}.{key} is {spelling}; only 0 and 1 (or false and true) are possible")
            flags[key] = _TRAINED[spelling.lower()] != (key in MASKED_KEYS)
    if len(set(flags.values())) > 1:
        raise bad_row(f"{field} contradicts itself about being trained: {' and '.join(flags)} differ")
    return all(flags.values())


def is_flag(value: Any) -> bool:
    """Return whether a value is a yes or no: true, false, 0 or 1, also as text."""
    return isinstance(value, str | bool | int | float) and cell_text(value, "").lower() in _TRAINED
