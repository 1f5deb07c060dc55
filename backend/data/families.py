"""The column names people use for each shape, in the order in which a tie is decided.

A shape is made of *parts* (``prompt``, ``completion``, ``messages``, …); a family says which column holds which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Columns = Mapping[str, str]


@dataclass(frozen=True)
class Parts:
    """What a shape is made of: parts that every row must have, and parts that are used when they are there."""

    required: tuple[str, ...]
    optional: tuple[str, ...]


PARTS: Mapping[str, Parts] = {
    "preference": Parts(("chosen", "rejected"), ("prompt", "input", "system", "tools")),
    "unpaired preference": Parts(("prompt", "completion", "label"), ("system", "tools")),
    "rated messages": Parts(("messages", "label"), ("system", "tools")),
    "messages": Parts(("messages",), ("system", "tools")),
    "tokens": Parts(("input_ids",), ("labels",)),
    "segments": Parts(("segments",), ()),
    "alpaca": Parts(("instruction", "output"), ("input", "system", "history")),
    "prompt/completion": Parts(("prompt", "completion"), ("context", "system", "tools")),
    "text": Parts(("text",), ()),
    "prompt": Parts(("prompt",), ("system", "tools")),
}


@dataclass(frozen=True)
class Family:
    """Column names that mark a shape; ``required`` ones must be there, ``optional`` ones are used if they are."""

    shape: str
    required: Columns
    optional: Columns


_CHAT = {"system": "system", "tools": "tools"}
_MESSAGES = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "turns")
_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("question", "answer"),
    ("question", "answers"),
    ("question", "response"),
    ("question", "output"),
    ("q", "a"),
    ("query", "response"),
    ("query", "answer"),
    ("instruction", "response"),
    ("instruction", "completion"),
    ("instruction", "answer"),
    ("input", "output"),
    ("input", "target"),
    ("input", "response"),
    ("source", "target"),
    ("user", "assistant"),
    ("human", "assistant"),
    ("text", "label"),
)

FAMILIES: tuple[Family, ...] = (
    Family(
        "preference",
        {"prompt": "input", "chosen": "preferred_output", "rejected": "non_preferred_output"},
        {},
    ),
    *(
        Family("preference", {"prompt": name, "chosen": "chosen", "rejected": "rejected"}, _CHAT)
        for name in ("prompt", "question", "query", *_MESSAGES)
    ),
    Family(
        "preference",
        {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"},
        {"input": "input", **_CHAT},
    ),
    Family("preference", {"chosen": "chosen", "rejected": "rejected"}, _CHAT),
    Family("unpaired preference", {"prompt": "prompt", "completion": "completion", "label": "label"}, _CHAT),
    *(
        Family("rated messages", {"messages": name, "label": label}, _CHAT)
        for name in _MESSAGES
        for label in ("kto_tag", "label")
    ),
    *(Family("messages", {"messages": name}, _CHAT) for name in _MESSAGES),
    Family("tokens", {"input_ids": "input_ids"}, {"labels": "labels"}),
    Family("segments", {"segments": "segments"}, {}),
    Family(
        "alpaca",
        {"instruction": "instruction", "output": "output"},
        {"input": "input", "system": "system", "history": "history"},
    ),
    *(
        Family(
            "prompt/completion", {"prompt": prompt, "completion": completion}, {"context": "context", **_CHAT}
        )
        for prompt, completion in _PAIRS
    ),
    Family("text", {"text": "text"}, {}),
    Family("text", {"text": "content"}, {}),
    Family("prompt", {"prompt": "prompt"}, _CHAT),
)

ALIASES: Columns = {"system_prompt": "system", "system_message": "system", "functions": "tools"}
"""Other names for the columns of optional parts: as OpenOrca has them, and OpenAI's older one."""

COLUMN_NAMES = frozenset(
    name for family in FAMILIES for part in (family.required, family.optional) for name in part.values()
)
"""Every column name that is known."""

FOREIGN: tuple[tuple[frozenset[str], str, str], ...] = (
    (
        frozenset({"annotations", "data"}),
        "a Label Studio export",
        "Export it again as JSON-MIN or CSV.",
    ),
    (
        frozenset({"fields", "responses"}),
        "an Argilla export",
        "Write prompt and completion of each record into columns of their own.",
    ),
    (frozenset({"mapping", "create_time"}), "a ChatGPT export", "Turn each of its chats into messages."),
    (frozenset({"contents"}), "Gemini's format", "Write contents as messages, with role and content."),
    (
        frozenset({"title", "paragraphs"}),
        "SQuAD's own file",
        "Write a row for each question: context, question, answer.",
    ),
    (frozenset({"message_tree_id", "prompt"}), "OASST trees", "Write each path through a tree as messages."),
    (
        frozenset({"parent_id", "role", "text"}),
        "single messages of OASST",
        "Follow parent_id and write each conversation as messages: a row here is only one side of it.",
    ),
)
"""Formats that keep their words deeper than a column: by which columns they are known, and what to do with them."""
