"""Check 22: pairs of answers and judged answers, and rows that the method of a run does not learn from.

``balance`` compares the better answers with the worse ones as a whole, ``references`` judges pairs by a model. The
trainer guards against faults of a run rather than of its rows: a reference that is not the model that training starts
from, or that is computed after training began, and an output layer under an adapter.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from backend.data.checks.base import Check, Example, Scan
from backend.data.cleaning import text_hash
from backend.data.records import Message, Row
from backend.data.store import rows_at
from backend.data.texts import message_text, question_text
from backend.errors import marked
from backend.run.methods import JUDGED, OBJECTIVES, PAIRS, methods_for
from backend.utils.text_utils import indents, shorten

REPEATED_WORDS, REPEATED_CHARACTERS = 3, 12
"""A shorter prompt may begin an answer by chance."""

_END_MARK = re.compile(r"<\|(?:im_end|endoftext|eot_id|end|eot)\|>|</s>|<(?:eos|end_of_turn)>")
_KINDS: Mapping[str, str] = {
    "preference": "pairs of answers (prompt, chosen, rejected)",
    "judged": "answers judged good or bad (prompt, completion, label)",
    "chat": "answers as they are (prompt, completion)",
    "text": "plain texts",
    "tokens": "token ids",
    "segments": "segments",
}


def untrainable(scan: Scan) -> Iterator[Example]:
    """Yield the rows of kinds from which the method of the run does not learn; none without a run."""
    learns = OBJECTIVES[scan.method].rows if scan.method else frozenset(_KINDS)
    for row in scan.rows:
        if row.kind not in learns:
            yield Example(row.place, f"one of the {_KINDS[row.kind]}")


def other_methods(scan: Scan) -> str:
    """Return what the method of the run learns from, and the methods that learn from the rows that it does not."""
    method = str(scan.method)
    learns = OBJECTIVES[method].rows
    others = sorted({row.kind for row in scan.rows} - learns)
    ways = (f"{_KINDS[kind].capitalize()} are for {_settings(methods_for(kind))}." for kind in others)
    known = [words for kind, words in _KINDS.items() if kind in learns][:2]
    return f"The method {method} learns from {' or '.join(known)}. {' '.join(ways)}"


def _settings(methods: Sequence[str]) -> str:
    return " or ".join(marked("objective.method", name) for name in methods)


def equal_pair(row: Row) -> str | None:
    """Return the reason if both replies are the same but for spacing and end tokens, else None."""
    if row.chosen and [_reply(each) for each in row.chosen] == [_reply(each) for each in row.rejected]:
        return f"chosen and rejected are both {shorten(row.chosen[-1]['content'], 60)!r}"
    return None


def preference_prompt(row: Row) -> str | None:
    """Return the reason if a preference row has no prompt, else None."""
    if row.chosen and not any(message["content"].strip() for message in row.messages):
        return "there is no prompt that both replies answer"
    return None


def repeated_prompt(row: Row) -> str | None:
    """Return the prompt that both replies, or a judged answer, begin with once more; None if they do not."""
    asked = repeated_question(row)
    return f"the answers begin with the prompt again: {shorten(asked, 80)!r}" if asked else None


def repeated_question(row: Row) -> str:
    """Return the question that every answer of a pair or judged row repeats at its beginning; "" if none does."""
    if row.kind not in (PAIRS, JUDGED):
        return ""
    found = [_question_and_answer(side) for side in row.answers()]
    asked = found[0][0]
    long = len(asked) >= REPEATED_CHARACTERS and len(asked.split()) >= REPEATED_WORDS
    return asked if long and all(answer.lstrip().startswith(asked) for _, answer in found) else ""


def _question_and_answer(side: Row) -> tuple[str, str]:
    """Return the last question of a conversation and the text of the answer after it."""
    roles = [message["role"] for message in side.messages]
    at = len(roles) - 1 - roles[::-1].index("user") if "user" in roles else len(roles)
    texts = [str(message["content"]) for message in side.messages[at : at + 2]]
    return (texts[0].strip(), texts[1]) if len(texts) > 1 else ("", "")


def conflicting_pairs(scan: Scan) -> Iterator[Example]:
    """Yield the rows of which another says the opposite: the other answer is better, or the same answer is bad."""
    for row in rows_at(scan.rows, opposed(scan.rows)):
        reply = message_text(row.answers()[0].messages[-1])
        what = "better than another" if row.chosen else "good" if row.label else "bad"
        yield Example(row.place, f"{shorten(reply, 60)!r} is {what} here, and the opposite in another row")


def opposed(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    """Return the numbers of the rows that contradict another, in order.

    Nothing in two such rows tells which of them is right.
    """
    hashes = array("Q")
    for row in rows:
        hashes.extend(_verdict(row))
    what, verdict = np.frombuffer(hashes, np.uint64).reshape(-1, 2).T
    kinds, kind_of = np.unique(what, return_inverse=True)
    said = np.zeros((2, len(kinds)), np.bool_)
    said[verdict, kind_of] = True
    return np.flatnonzero((said[0] & said[1])[kind_of] & (what != 0))


def _verdict(row: Row) -> tuple[int, int]:
    """Return a hash of what a row judges, and its verdict, 0 or 1; (0, 0) for a row that judges nothing."""
    if row.kind == PAIRS:
        one, other = ("\x1f".join(map(message_text, reply)).strip() for reply in (row.chosen, row.rejected))
        what = f"{question_text(row)}\x1e{min(one, other)}\x1e{max(one, other)}"
        return (text_hash(what), int(one < other)) if one != other else (0, 0)
    if row.label is not None:
        return text_hash("\x1f".join(map(message_text, row.messages)).strip()), int(row.label)
    return 0, 0


def _reply(message: Message) -> tuple[str, str, str]:
    """Return what makes a reply differ from another: its words, its indentation and its calls."""
    text = _END_MARK.sub("", message["content"]).strip()
    return " ".join(text.split()), indents(text), json.dumps(message.get("tool_calls"), sort_keys=True)


PREFERENCE_CHECKS = (
    Check(
        22,
        "untrainable-rows",
        "The method of this run does not learn from these rows",
        "block",
        "They fit another method.",
        over_all=untrainable,
        summary=other_methods,
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
        "repeated-prompts",
        "Answers repeat their prompt",
        "warn",
        "The prompt is then trained twice, and the model learns to begin its answers with the question.",
        by_row=repeated_prompt,
        escalate=(0.2, "block"),
        fix="strip-prompts",
    ),
    Check(
        22,
        "conflicting-pairs",
        "Rows contradict each other about which answer is better",
        "warn",
        "The model is pulled both ways and learns neither. Nothing in the rows says which of them is right: the fix "
        "leaves out both.",
        over_all=conflicting_pairs,
        fix="drop-conflicting-pairs",
        chosen_up_to=0.2,
    ),
)
