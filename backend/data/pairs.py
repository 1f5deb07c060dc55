"""Split preference rows into a prompt and two replies.

People write the prompt into a column of its own, at the beginning of both replies, or into both places. Some write
whole dialogues as one text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from backend.data.chat import bad_row
from backend.data.records import Message, last_answer_trained, untrained
from backend.errors import DataError

Messages = tuple[Message, ...]
Split = tuple[Messages, Messages, Messages]
"""Prompt, chosen, rejected."""

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_TIES = frozenset({"both", "draw", "equal", "even", "neither", "same"})
_ROLES = {"Human": "user", "Assistant": "assistant"}


def dialogue(value: Any) -> Messages:
    r"""Return the turns of ``\n\nHuman: …\n\nAssistant: …`` in one text, as in HH-RLHF; () for any other value.

    One space after each name goes with it; everything else stays as given.
    """
    marks = list(_SPEAKER.finditer(value)) if isinstance(value, str) else []
    if not marks or marks[0].start() or {mark[1] for mark in marks} != set(_ROLES):
        return ()
    ends = [*(mark.start() for mark in marks[1:]), len(value)]
    return tuple(
        {"role": _ROLES[mark[1]], "content": value[mark.end() : end].removeprefix(" ")}
        for mark, end in zip(marks, ends, strict=True)
    )


def judged(messages: Messages) -> Messages:
    """Return the messages of a rating, which is about what follows the last question: only that is trained.

    Raises ``DataError`` if no answer follows it.
    """
    if not any(message["role"] == "assistant" for message in messages[_after_last_user(messages) :]):
        raise bad_row("the conversation ends without an answer that could be judged")
    return last_answer_trained(messages)


def without_cue(turns: Messages) -> Messages:
    r"""Return a dialogue without the empty ``\n\nAssistant:`` at its end, which only asks for the answer."""
    asks = turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip()
    return turns[:-1] if asks else turns


def after_cue(reply: Messages) -> Messages:
    r"""Return a reply to ``\n\nAssistant:`` without the space between the two."""
    return ({**reply[0], "content": reply[0]["content"].removeprefix(" ")}, *reply[1:])


def split_texts(chosen: str, rejected: str) -> Split:
    """Return the whole words that two texts begin with as the prompt, and the rest of each.

    The space between them goes to the replies, since it belongs to the token of the word after it; a line break stays
    with the prompt. Raises ``DataError`` if the texts share no word.
    """
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    cut = sum(1 for _ in same)
    while cut and not (chosen[cut - 1].isspace() and chosen[cut:].strip() and rejected[cut:].strip()):
        cut -= 1
    cut -= chosen[cut - 1 : cut] == " "
    if not chosen[:cut].strip():
        raise _no_prompt()
    left, right = (({"role": "assistant", "content": text[cut:]},) for text in (chosen, rejected))
    return ({"role": "user", "content": chosen[:cut]},), left, right


def split_shared(chosen: Messages, rejected: Messages) -> Split:
    """Return the beginning that both replies share as the prompt, and the rest of each.

    A rejected answer alone is one to the question before the chosen answer. Raises ``DataError`` if they share no
    beginning, or if the first difference is not in an answer.
    """
    if len(rejected) == 1 and _after_last_user(chosen) and chosen[-1]["role"] == rejected[0]["role"]:
        return untrained(chosen[:-1]), chosen[-1:], rejected
    count = _shared(chosen, rejected)
    while count and {chosen[count]["role"], rejected[count]["role"]} & {"tool"}:
        count -= 1  # other results of one call belong to the answers, the call included
    if count == 0 or {chosen[count]["role"], rejected[count]["role"]} != {"assistant"}:
        raise _no_prompt()
    return untrained(chosen[:count]), chosen[count:], rejected[count:]


def split_given(whole: Messages, asked: Messages, chosen: Messages, rejected: Messages) -> Split:
    """Return the prompt and the replies without what they repeat of it.

    ``asked`` is what the prompt column holds, ``whole`` the same with system message, context and history. Replies
    that are whole chats may begin with more than the column holds (a system message, further turns): the prompt is
    then what both share, up to their last common question.
    """
    chosen, rejected = (_without(reply, (whole, asked)) for reply in (chosen, rejected))
    count = _after_last_user(chosen[: _shared(chosen, rejected)])
    shared = chosen[:count]
    system = whole[: -len(asked)]
    alone = whole == (*system, *asked) and len(system) < 2
    if shared and shared[0]["role"] == "assistant":
        whole = (*whole, *shared)
    elif alone and any(shared[at : at + len(asked)] == asked for at in range(count)):
        whole = shared if shared[0]["role"] == "system" else (*system, *shared)
    else:
        count = 0
    return untrained(whole), chosen[count:], rejected[count:]


def winner(value: Any, columns: tuple[str, str], field: str) -> int:
    """Return which of two answers a cell says is better: 0 or 1, given the names of their columns.

    The cell has the end of one of the names: ``a`` or ``model_a`` for ``response_a``, 1 for ``answer_1``. Raises
    ``DataError`` for a tie, which teaches nothing, and where the cell names neither.
    """
    ends = [name.rpartition("_")[2].lower() for name in columns]
    said = str(value).strip().lower()
    if said in _TIES or said.startswith("tie"):
        raise bad_row(
            f"the field {field!r} is {value!r}, a tie, which says of neither answer that it is better"
        )
    found = [place for place, end in enumerate(ends) if re.fullmatch(rf"(.*[_\s-])?{re.escape(end)}", said)]
    if isinstance(value, bool) or len(found) != 1:
        raise bad_row(
            f"the field {field!r} is {value!r}, which names neither {columns[0]!r} nor {columns[1]!r}: "
            f"write {ends[0]} or {ends[1]}"
        )
    return found[0]


def require_answers(fields: Sequence[str], replies: Sequence[Messages]) -> None:
    """Raise ``DataError`` if a reply holds no message of the assistant."""
    for field, reply in zip(fields, replies, strict=True):
        if not any(message["role"] == "assistant" for message in reply):
            raise bad_row(f"the field {field!r} holds no answer of the assistant")


def _without(reply: Messages, prompts: Sequence[Messages]) -> Messages:
    for prompt in prompts:
        if len(reply) > len(prompt) and untrained(reply[: len(prompt)]) == untrained(prompt):
            return reply[len(prompt) :]
    return reply


def _shared(chosen: Messages, rejected: Messages) -> int:
    """Return how many messages both replies begin with, the last message of each left out."""
    count = 0
    while count < min(len(chosen), len(rejected)) - 1 and chosen[count] == rejected[count]:
        count += 1
    return count


def _after_last_user(messages: Messages) -> int:
    asked = [number for number, message in enumerate(messages, 1) if message["role"] == "user"]
    return asked[-1] if asked else 0


def _no_prompt() -> DataError:
    return bad_row(
        "there is no prompt: chosen and rejected do not begin with the same question; give it a column, prompt"
    )
