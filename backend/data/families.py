"""The column names that people use for each part of a row, likeliest first.

A shape consists of *parts* (``prompt``, ``completion``, ``messages``, …); a family lists the columns that may hold
each part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

Columns = Mapping[str, str]
Names = Mapping[str, tuple[str, ...]]
"""Part → column names for it in lower case, likeliest first."""


@dataclass(frozen=True)
class Parts:
    """The parts of a shape: those that every row must have, and those that are used when present."""

    required: tuple[str, ...]
    optional: tuple[str, ...]


_OF_PROMPTS = ("input", "context", "choices", "history", "system", "tools")
_OF_ANSWERED = (*_OF_PROMPTS, "reasoning")

PARTS: Mapping[str, Parts] = {
    "preference": Parts(("chosen", "rejected"), ("prompt", *_OF_PROMPTS)),
    "two answers": Parts(("answer_a", "answer_b", "winner"), ("prompt", *_OF_PROMPTS)),
    "unpaired preference": Parts(("prompt", "completion", "label"), _OF_ANSWERED),
    "rated messages": Parts(("messages", "label"), ("system", "tools")),
    "messages": Parts(("messages",), ("system", "tools")),
    "tokens": Parts(("input_ids",), ("labels",)),
    "segments": Parts(("segments",), ()),
    "alpaca": Parts(("instruction", "output"), _OF_ANSWERED),
    "prompt/completion": Parts(("prompt", "completion"), _OF_ANSWERED),
    "text": Parts(("text",), ()),
    "prompt": Parts(("prompt",), _OF_PROMPTS),
}


@dataclass(frozen=True)
class Family:
    """Column names that mark a shape: one for each ``required`` part must be present, ``optional`` ones may be.

    ``alone``: one column is enough, so the shape is chosen only if no other column could be meant.
    """

    shape: str
    required: Names
    optional: Names
    alone: bool = False

    def readings(self, present: Mapping[str, str]) -> Iterator[dict[str, str]]:
        """Yield each assignment of parts to columns of ``present`` (lower case → as spelled), likeliest first."""
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
    *("rejected", "reject", "rejected_response", "rejected_messages", "rejected_output", "rejected_answer"),
    *("rejected_completion", "non_preferred_output", "non_preferred_response", "non_preferred_answer"),
    *("non_preferred_completion", "non_preferred", "dispreferred_output", "dispreferred_response"),
    *("dispreferred", "response_rejected", "answer_rejected"),
)
WINNERS = (
    *(
        "winner",
        "better_response_id",
        "better_response",
        "better_answer",
        "better",
        "preference",
        "preferred",
    ),
    *("choice", "label", "labels", "vote", "overall_preference"),
)
_TWO_ANSWERS = tuple(
    (f"{name}_{one}", f"{name}_{other}")
    for one, other in (("a", "b"), ("0", "1"), ("1", "2"))
    for name in ("response", "answer", "completion", "output", "conversation")
)
"""Columns of two answers of which a third column names the better one."""
_PLAIN_CONTEXTS = ("context", "passage", "background", "evidence")
_CONTEXTS = (*_PLAIN_CONTEXTS, "document", "article", "story", "text", "body")
"""Without an answer column the additional ones may be the answer, so a prompt alone takes only the plain ones."""

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
        Family(
            "two answers",
            {"prompt": _ASKED_OF_TWO, "answer_a": (one,), "answer_b": (other,), "winner": WINNERS},
            _AROUND,
        )
        for one, other in _TWO_ANSWERS
    ),
    *(
        Family("two answers", {"answer_a": (one,), "answer_b": (other,), "winner": WINNERS}, _CHAT)
        for one, other in _TWO_ANSWERS
        if one.startswith("conversation")
    ),
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
    Family(
        "prompt", {"prompt": ("instruction",)}, {**_UNDER_INSTRUCTION, "context": _PLAIN_CONTEXTS}, alone=True
    ),
    Family("prompt", {"prompt": QUESTIONS}, {**_AROUND, "context": _PLAIN_CONTEXTS}, alone=True),
)

COLUMN_NAMES = frozenset(
    name
    for family in FAMILIES
    for names in (*family.required.values(), *family.optional.values())
    for name in names
)
"""Every known column name."""

AROUND_NAMES = frozenset({"input_ids", "segments", *(name for names in _AROUND.values() for name in names)})
"""Columns that accompany a prompt and its answer and are neither."""

PART_NAMES = COLUMN_NAMES - {"source", "user", "human", "q", "a", "task", "class", "body", "code", "quality"}
"""Known column names that nearly always mean a part of a row; the others often mean something else."""

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
"""Foreign formats with their text deeper than a column: their columns, what they are, what to do."""

SPEAKERS = ("role", "from", "speaker", "sender", "author_role")
UTTERANCES = ("content", "text", "value", "message", "utterance")
"""With a speaker and an utterance column a row is one message of a conversation over several rows."""
