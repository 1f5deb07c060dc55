"""Checks 8 and 23: malformed conversations and tool calls."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from backend.data.checks.base import Check
from backend.data.records import Row
from backend.data.texts import wanted
from backend.utils.text_utils import shorten


def role_order(row: Row) -> str | None:
    """Return the first fault in the order of a conversation's roles, else None."""
    problems = (problem for side in row.answers() if row.messages for problem in _order_problems(side))
    return next(problems, None)


def _order_problems(row: Row) -> Iterator[str]:
    roles = [message["role"] for message in row.messages]
    if "system" in roles[1:]:
        yield f"the system message is number {roles.index('system', 1) + 1} instead of first"
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns:
        yield "there is nothing but a system message"
        return
    if turns[0] == "assistant":
        yield "the conversation begins with the assistant"
    for number, (one, two) in enumerate(pairwise(turns), 1 + len(roles) - len(turns)):
        if one == two != "tool":
            yield f"two {one} messages follow each other at message {number}"
    if turns[-1] != "assistant":
        yield f"the conversation ends with the {turns[-1]}, so the last answer is missing"


def tool_calls(row: Row) -> str | None:
    """Return the first fault: arguments that are not JSON, an unknown tool, a result without a call; else None."""
    known = _tool_names(row.tools)
    open_ids: set[str] = set()
    for number, message in enumerate(wanted(row).answers()[0].messages, 1):
        for call in message.get("tool_calls", ()):
            function = call["function"]
            if problem := _call_problem(function, known):
                return f"message {number}: {problem}"
            open_ids.add(str(call.get("id", "")))
        call_id = message.get("tool_call_id")
        if call_id is not None and call_id not in open_ids:
            return f"message {number} answers the tool call {call_id!r}, which was never made"
        if message["role"] == "tool" and not open_ids:
            return f"message {number} is the result of a tool that was never called"
    return None


def _call_problem(function: Mapping[str, Any], known: set[str]) -> str | None:
    arguments = function["arguments"]
    if isinstance(arguments, str):
        try:
            json.loads(arguments or "{}")
        except ValueError:
            return f"the arguments of {function['name']!r} are not JSON: {shorten(arguments, 60)}"
    if known and function["name"] not in known:
        return f"the tool {function['name']!r} is not among the row's tools ({', '.join(sorted(known))})"
    return None


def _tool_names(tools: str | None) -> set[str]:
    try:
        listed = json.loads(tools or "[]")
    except ValueError:
        return set()
    if not isinstance(listed, list):
        return set()
    items = [each.get("function", each) for each in listed if isinstance(each, dict)]
    return {str(each["name"]) for each in items if isinstance(each, dict) and "name" in each}


CONVERSATION_CHECKS = (
    Check(
        8,
        "role-order",
        "Speakers do not take turns",
        "warn",
        "Several chat templates refuse such rows, others train the model to speak out of turn.",
        by_row=role_order,
        fix="mend-turns",
    ),
    Check(
        23,
        "tool-calls",
        "Tool calls do not fit together",
        "warn",
        "The model learns calls that no program can carry out.",
        by_row=tool_calls,
    ),
)
