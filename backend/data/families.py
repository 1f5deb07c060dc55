"""The column names people use for each part of a row, in the order in which a tie is decided.

A shape is made of *parts* (``prompt``, ``completion``, ``messages``, …); a family says which columns may hold which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

Columns = Mapping[str, str]
Names = Mapping[str, tuple[str, ...]]
"""For each part the column names that mean it, likeliest first, in lower case."""


@dataclass(frozen=True)
class Parts:
    """What a shape is made of: parts that every row must have, and parts that are used when they are there."""

    required: tuple[str, ...]
    optional: tuple[str, ...]


_BESIDE = ("input", "context", "choices", "history", "system", "tools")
_ANSWERED = (*_BESIDE, "reasoning")

PARTS: Mapping[str, Parts] = {
    "preference": Parts(("chosen", "rejected"), ("prompt", *_BESIDE)),
    "unpaired preference": Parts(("prompt", "completion", "label"), _ANSWERED),
    "rated messages": Parts(("messages", "label"), ("system", "tools")),
    "messages": Parts(("messages",), ("system", "tools")),
    "tokens": Parts(("input_ids",), ("labels",)),
    "segments": Parts(("segments",), ()),
    "alpaca": Parts(("instruction", "output"), _ANSWERED),
    "prompt/completion": Parts(("prompt", "completion"), _ANSWERED),
    "text": Parts(("text",), ()),
    "prompt": Parts(("prompt",), _BESIDE),
}


@dataclass(frozen=True)
class Family:
    """Column names that mark a shape; one of each ``required`` part must be there, ``optional`` ones are used then.

    ``alone``: one column is all that it takes, so that it is chosen only where no other column could be meant.
    """

    shape: str
    required: Names
    optional: Names
    alone: bool = False

    def readings(self, present: Mapping[str, str]) -> Iterator[dict[str, str]]:
        """Each way to give these parts a column of ``present`` (lower case → as spelled), likeliest first."""
        found = [[name for name in names if name in present] for names in self.required.values()]
        for names in product(*found):
            if len(set(names)) < len(names):
                continue
            columns = dict(zip(self.required, names, strict=True))
            for part, choices in self.optional.items():
                free = (name for name in choices if name in present and name not in columns.values())
                if name := next(free, None):
                    columns[part] = name
            yield {part: present[name] for part, name in columns.items()}


MESSAGES = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "turns")
QUESTIONS = ("prompt", "question", "query", "problem", "task", "user_input", "user_prompt", "input", "inputs")
ANSWERS = (
    *("completion", "response", "answer", "answers", "output", "target", "solution", "reply", "generation"),
    *(
        "canonical_solution",
        "expected_output",
        "model_output",
        "outputs",
        "targets",
        "answerkey",
        "answer_key",
        "assistant",
    ),
    *("summary", "code"),
)
DOCUMENTS = ("text", "document", "article", "dialogue", "passage", "sentence", "content", "body", "report")
DIGESTS = ("summary", "highlights", "abstract", "headline", *(name for name in ANSWERS if name != "summary"))
CLASSES = ("label_text", "label_name", "label", "labels", "sentiment", "emotion", "intent", "class")
RATINGS = (
    *("label", "kto_tag", "rating", "score", "thumbs", "thumb", "thumbs_up", "feedback", "vote", "liked"),
    *("desirable", "is_desirable", "preferred", "is_preferred", "good", "is_good", "accepted", "is_accepted"),
    *("correct", "is_correct", "reward", "quality", "labels"),
)
_CHOSEN = (
    *("chosen", "chosen_response", "chosen_messages", "chosen_output", "chosen_answer", "chosen_completion"),
    *("preferred_output", "preferred_response", "preferred_answer", "preferred_completion", "preferred"),
    *("response_chosen", "answer_chosen"),
)
REJECTED = (
    *("rejected", "rejected_response", "rejected_messages", "rejected_output", "rejected_answer"),
    *("rejected_completion", "non_preferred_output", "non_preferred_response", "non_preferred_answer"),
    *("non_preferred_completion", "non_preferred", "dispreferred_output", "dispreferred_response"),
    *("dispreferred", "response_rejected", "answer_rejected"),
)
_ASIDE = ("context", "passage", "background", "evidence")
_CONTEXTS = (*_ASIDE, "document", "article", "story", "text", "body")
"""The second ones may hold an answer where there is no other."""

_CHAT: Names = {
    "system": ("system", "system_prompt", "system_message", "system_instruction", "system_instructions"),
    "tools": ("tools", "functions"),
}
_AROUND: Names = {
    "input": ("input",),
    "context": _CONTEXTS,
    "choices": ("choices", "options"),
    "history": ("history",),
    **_CHAT,
}
_UNDER_INSTRUCTION: Names = {**_AROUND, "input": ("input", "question", "query", "problem")}
_UNDER_DOCUMENT: Names = {**_AROUND, "input": ("input", "question", "query", "prompt", "instruction")}
_PAIRS: tuple[tuple[tuple[str, ...], tuple[str, ...], Names], ...] = (
    (("instruction",), ANSWERS, _UNDER_INSTRUCTION),
    (QUESTIONS, ANSWERS, _AROUND),
    (("source", "user", "human"), ("target", "assistant", "response", "answer"), _AROUND),
    (("q",), ("a",), _AROUND),
    (DOCUMENTS, DIGESTS, _UNDER_DOCUMENT),
)
_ASKED_OF_TWO = (*QUESTIONS, "context", *(name for name in DOCUMENTS if name not in MESSAGES), *MESSAGES)

FAMILIES: tuple[Family, ...] = (
    Family(
        "preference",
        {"prompt": ("instruction",), "chosen": _CHOSEN, "rejected": REJECTED},
        _UNDER_INSTRUCTION,
    ),
    Family("preference", {"prompt": _ASKED_OF_TWO, "chosen": _CHOSEN, "rejected": REJECTED}, _AROUND),
    Family("preference", {"chosen": _CHOSEN, "rejected": REJECTED}, _CHAT),
    *(
        Family("preference", {"prompt": asked, "chosen": answers, "rejected": REJECTED}, around)
        for asked, answers, around in _PAIRS
    ),
    Family("preference", {"chosen": MESSAGES, "rejected": REJECTED}, _CHAT),
    *(
        Family("unpaired preference", {"prompt": asked, "completion": answers, "label": RATINGS}, around)
        for asked, answers, around in _PAIRS
    ),
    Family("rated messages", {"messages": MESSAGES, "label": RATINGS}, _CHAT),
    Family("messages", {"messages": MESSAGES}, _CHAT),
    Family("tokens", {"input_ids": ("input_ids",)}, {"labels": ("labels",)}),
    Family("segments", {"segments": ("segments",)}, {}),
    Family("alpaca", {"instruction": ("instruction",), "output": ("output",)}, _UNDER_INSTRUCTION),
    *(
        Family("prompt/completion", {"prompt": asked, "completion": answers}, around)
        for asked, answers, around in _PAIRS
    ),
    Family("prompt/completion", {"prompt": DOCUMENTS, "completion": CLASSES}, _UNDER_DOCUMENT),
    Family("text", {"text": ("text", "content")}, {}, alone=True),
    Family("prompt", {"prompt": ("instruction",)}, {**_UNDER_INSTRUCTION, "context": _ASIDE}, alone=True),
    Family("prompt", {"prompt": QUESTIONS}, {**_AROUND, "context": _ASIDE}, alone=True),
)

COLUMN_NAMES = frozenset(
    name
    for family in FAMILIES
    for names in (*family.required.values(), *family.optional.values())
    for name in names
)
"""Every column name that is known."""

ROUND_NAMES = frozenset({"input_ids", "segments", *(name for names in _AROUND.values() for name in names)})
"""Columns that stand around a prompt and its answer, and are neither."""

PART_NAMES = COLUMN_NAMES - {"source", "user", "human", "q", "a", "task", "class", "body", "code", "quality"}
"""Columns that mean a part of a row wherever they stand; the others are often called so for another reason."""

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

SPEAKERS = ("role", "from", "speaker", "sender", "author_role")
UTTERANCES = ("content", "text", "value", "message", "utterance")
"""A speaker beside an utterance: a row is one message of a conversation that goes over several rows."""
