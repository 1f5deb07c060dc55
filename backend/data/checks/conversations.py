"""Checks 8, 22 and 23: malformed conversations, preferences, ratings and tool calls."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from backend.data.checks.base import Check, Example, Scan
from backend.data.records import Message, Row
from backend.utils.text_utils import shorten


def role_order(row: Row) -> str | None:
    """Return the first fault in the order of a conversation's roles, else None."""
    return next(_order_problems(row), None) if row.messages else None


def _order_problems(row: Row) -> Iterator[str]:
    roles = [message["role"] for message in row.messages]
    if "system" in roles[1:]:
        yield f"the system message is number {roles.index('system', 1) + 1} instead of first"
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns:
        yield "there is nothing but a system message"
        return
    if turns[0] == "assistant" and not row.chosen:
        yield "the conversation begins with the assistant"
    for number, (one, two) in enumerate(pairwise(turns), 1 + len(roles) - len(turns)):
        if one == two != "tool":
            yield f"two {one} messages follow each other at message {number}"
    if turns[-1] != "assistant" and not row.chosen:
        yield f"the conversation ends with the {turns[-1]}, so the last answer is missing"


def equal_pair(row: Row) -> str | None:
    """Return the reason if both replies of a preference row are the same, else None."""
    if row.chosen and [_reply(each) for each in row.chosen] == [_reply(each) for each in row.rejected]:
        return f"chosen and rejected are both {shorten(row.chosen[-1]['content'], 60)!r}"
    return None


def preference_prompt(row: Row) -> str | None:
    """Return the reason if a preference row has no prompt, else None."""
    if row.chosen and not any(message["content"].strip() for message in row.messages):
        return "there is no prompt that both replies answer"
    return None


def untrainable(row: Row) -> str | None:
    """Return the kind of a row that no training method here learns from, else None."""
    if row.label is not None:
        return "an answer that is judged good or bad"
    return "an answer that is preferred to another" if row.chosen or row.rejected else None


def length_bias(scan: Scan) -> Iterator[Example]:
    """Yield one example if the chosen reply is the longer one in more than nine of ten preference rows."""
    pairs, longer, place = 0, 0, ""
    for row in scan.rows:
        if row.chosen and row.rejected:
            pairs += 1
            if _length(row.chosen) > _length(row.rejected):
                longer += 1
                place = place or row.place
    if pairs >= 20 and longer > 0.9 * pairs:
        yield Example(place, f"chosen is longer than rejected in {longer:,} of {pairs:,} rows")


def one_sided(scan: Scan) -> Iterator[Example]:
    """Yield one example if over nine tenths of the ratings are the same."""
    rated, good, place = 0, 0, ""
    for row in scan.rows:
        if row.label is not None:
            rated += 1
            good += row.label
            place = place or row.place
    if rated and min(good, rated - good) < 0.1 * rated:
        yield Example(place, f"{good:,} of {rated:,} ratings are true")


def tool_calls(row: Row) -> str | None:
    """Return the first fault: arguments that are not JSON, an unknown tool, a result without a call; else None."""
    known = _tool_names(row.tools)
    open_ids: set[str] = set()
    for number, message in enumerate(row.messages, 1):
        for call in message.get("tool_calls", ()):
            function = call["function"]
            if problem := _call_problem(function, known):
                return f"message {number}: {problem}"
            open_ids.add(str(call.get("id", "")))
        wanted = message.get("tool_call_id")
        if wanted is not None and wanted not in open_ids:
            return f"message {number} answers the tool call {wanted!r}, which was never made"
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


def _reply(message: Message) -> tuple[str, str]:
    return message["content"].strip(), json.dumps(message.get("tool_calls"), sort_keys=True)


def _length(messages: tuple[Message, ...]) -> int:
    return sum(len(message["content"]) for message in messages)


CONVERSATION_CHECKS = (
    Check(
        22,
        "untrainable-rows",
        "No training method here learns from these rows",
        "block",
        "Training learns from answers as they are: give prompt and completion rows, the good answers alone.",
        by_row=untrainable,
    ),
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
        22,
        "equal-pairs",
        "Chosen and rejected are the same",
        "block",
        "Such a pair has no preference to learn and only adds noise.",
        by_row=equal_pair,
        fix="drop-equal-pairs",
        chosen_up_to=0.2,
    ),
    Check(
        22,
        "no-shared-prompt",
        "Preference rows have no prompt",
        "block",
        "Without a prompt that both replies share, the comparison means nothing.",
        by_row=preference_prompt,
    ),
    Check(
        22,
        "length-bias",
        "The preferred reply is nearly always the longer one",
        "warn",
        "The model learns to be long instead of good.",
        over_all=length_bias,
        of_rows=False,
    ),
    Check(
        22,
        "one-sided-ratings",
        "Nearly all ratings are the same",
        "warn",
        "Without enough rows of the other kind there is nothing to tell apart.",
        over_all=one_sided,
        of_rows=False,
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
