"""Cleaning by choice: repairing damaged Unicode and finding rows that repeat others.

Nothing here changes rows by itself; functions say what they found, and ``doctor`` proposes it as a fix.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import xxhash
from ftfy import TextFixerConfig, fix_text
from ftfy.badness import is_bad

from backend.data.minhash import GRAM, Hashes, near_duplicates, overlap
from backend.data.prose import map_prose
from backend.data.records import Message, Row
from backend.data.store import rows_at
from backend.data.texts import (
    answer_text,
    calls_text,
    is_trained,
    last_reply,
    map_texts,
    message_text,
    prompt_messages,
    prompt_text,
    question_text,
)
from backend.utils.text_utils import indents, normalise, signs

# Only what is certainly damage: words, quotes, ligatures, entities and line breaks stay as they were written.
_REPAIR = TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    normalization=None,
    explain=False,
)


LONG_ANSWER = 80
"""Characters from which on an answer need not be equal to be alike."""
LONG_ROW = 400
"""Characters up to which every number and sign of a row counts."""
SENTENCE_WORDS = 4
LONG_LABEL = 60
"""Characters from which on an answer is no label."""
PREFIX_TEXTS = 10
ADDED_SHARE = 0.2
SENTENCE_LIKENESS, QUESTION_LIKENESS = 0.5, 0.8
"""The least Jaccard similarity of the sentences in which two rows differ, in pieces of ``GRAM`` characters."""

_ENCODE = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode
_NUMBER = re.compile(r"\d+")
_SENTENCE_END = re.compile(r"\n++|(?<=[.!?])\s++|(?<=[。！？])")

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Leak:
    """A training row that an evaluation row repeats; ``kind`` is ``exact`` (same prompt) or ``near``."""

    train: int
    evaluation: int
    kind: str


def is_damaged(text: str) -> bool:
    """Return whether a text holds mojibake (UTF-8 read as another encoding) or characters no text should hold."""
    if text.isascii():
        return "\0" in text
    return "\ufffd" in text or "\0" in text or "\ufeff" in text or bool(is_bad(text))


def repair_text(text: str) -> str:
    """A damaged text with mojibake in its prose undone, and NUL and stray byte-order marks taken out everywhere.

    Code and addresses are left as they are written. Uses ftfy (Speer, "ftfy", Zenodo 2019) with every setting off
    that touches sound text.
    """
    if not is_damaged(text):
        return text
    return map_prose(text.replace("\0", "").replace("\ufeff", ""), lambda part: fix_text(part, _REPAIR))


def repair_row(row: Row) -> Row:
    """The row with its damaged texts repaired, or the same object when none is damaged."""
    return map_texts(row, repair_text)


def row_hash(row: Row) -> int:
    """A 64-bit hash of everything a row says and trains, to the character: calls, tools and rejected replies too.

    Its place and its group are no part of it.
    """
    says = (row.messages, row.text, row.tools, row.chosen, row.rejected, row.label, row.segments)
    return text_hash(_ENCODE((*says, row.input_ids, row.labels)))


def exact_duplicates(rows: Iterable[Row]) -> dict[int, int]:
    """For each row that says the same as an earlier one, the number of that one: ``{later: earlier}``."""
    first = first_of_each(np.fromiter(map(row_hash, rows), np.uint64))
    later = np.flatnonzero(first != np.arange(len(first)))
    return dict(zip(later.tolist(), first[later].tolist(), strict=True))


def first_of_each(hashes: Hashes) -> npt.NDArray[np.int64]:
    """For each hash the number of the first that is equal to it."""
    _, first, kind_of = np.unique(hashes, return_index=True, return_inverse=True)
    return np.asarray(first[kind_of], np.int64)


def text_hash(text: str) -> int:
    """A 64-bit hash of a text as it stands."""
    return int(xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")))


def row_pairs(
    rows: Sequence[Row], others: Sequence[Row], pairs: Iterable[tuple[int, int]]
) -> Iterator[tuple[Row, Row]]:
    """For each pair of numbers the row with the first one and of ``others`` that with the second one."""
    numbers = np.fromiter(itertools.chain.from_iterable(pairs), np.int64).reshape(-1, 2)
    return zip(rows_at(rows, numbers[:, 0]), rows_at(others, numbers[:, 1]), strict=True)


def near_duplicate_rows(rows: Sequence[Row], threshold: float = 0.8) -> dict[int, int]:
    """For each row that nearly repeats an earlier one, prompt and answer, that one: ``{later: earlier}``.

    Prompts are compared without what all of them begin with, so that a fixed instruction does not make
    different questions alike; short answers must be equal, and so must system messages, tools, calls, rejected
    replies and, in a conversation, the last question. Exact duplicates are found too. ``threshold`` is the Jaccard
    similarity of the pieces, 0 to 1.
    """
    shared = shared_prefix(map(_prompt, rows))
    found = near_duplicates((_compared(row, shared) for row in rows), threshold)
    both = row_pairs(rows, rows, found.items())
    return {later: first for (later, first), pair in zip(found.items(), both, strict=True) if _alike(*pair)}


def find_leaks(train: Sequence[Row], evaluation: Sequence[Row], threshold: float = 0.8) -> list[Leak]:
    """Training rows that stand among the evaluation rows, in order of the training rows.

    An exact leak asks the same: everything before its last answer is equal but for case, spacing and end marks. A
    near one has nearly the same prompt and answer, as in ``near_duplicate_rows``, or asks it at an earlier turn.
    """
    first = _first_numbers(map(_question, evaluation))
    known = ((number, first.get(_question(row))) for number, row in enumerate(train))
    exact = {number: other for number, other in known if other is not None}
    whole = _first_numbers(map(_whole_question, evaluation))
    shared = shared_prefix(map(_prompt, itertools.chain(evaluation, train)))
    mine, theirs = ((_compared(row, shared) for row in rows) for rows in (train, evaluation))
    near = list(overlap(mine, theirs, threshold).items())
    both = row_pairs(train, evaluation, near)
    found = {number: other for (number, other), pair in zip(near, both, strict=True) if _alike(*pair)}
    for number, row in enumerate(train):
        earlier = (whole[question] for question in _earlier_questions(row) if question in whole)
        if (other := next(earlier, None)) is not None:
            found[number] = other
    leaks = [Leak(number, other, "exact") for number, other in exact.items()]
    leaks += [Leak(number, other, "near") for number, other in found.items() if number not in exact]
    return sorted(leaks, key=lambda leak: leak.train)


def shared_answers(rows: Sequence[Row], others: Sequence[Row]) -> dict[int, int]:
    """For each row whose answer one of ``others`` gives to another question, that one: ``{row: other}``.

    Such rows are likely paraphrases of one question. Answers that may be labels say nothing of that, which are those
    that are no sentence and have ``LONG_LABEL`` characters at most; nor do the replies of preference rows.
    """
    first = _first_numbers(map(_full_answer, others))
    given = enumerate(map(_full_answer, rows))
    same = [(number, first[answer]) for number, answer in given if answer and answer in first]
    both = row_pairs(rows, others, same)
    return {
        number: other
        for (number, other), pair in zip(same, both, strict=True)
        if _question(pair[0]) != _question(pair[1])
    }


def _first_numbers(keys: Iterable[_Key]) -> dict[_Key, int]:
    first: dict[_Key, int] = {}
    for number, key in enumerate(keys):
        first.setdefault(key, number)
    return first


def _full_answer(row: Row) -> int:
    """The hash of an answer that is a sentence or longer than a label, else 0."""
    answer = "" if row.chosen or row.rejected or row.text is not None else last_reply(row).strip()
    sentence = answer.endswith("。") or (
        answer.endswith((".", "!", "?")) and answer.count(" ") >= SENTENCE_WORDS - 1
    )
    return text_hash(f"{normalise(answer)}\x1f{signs(answer)}") if sentence or len(answer) > LONG_LABEL else 0


def _prompt(row: Row) -> str:
    return normalise(prompt_text(row))


def _question(row: Row) -> tuple[str, str, str]:
    text = question_text(row)
    return normalise(text), signs(text), indents(text)


def _whole_question(row: Row) -> int:
    """The hash of what a row asks, to be found among those of ``_earlier_questions``; of one that asks nothing 0."""
    digest = xxhash.xxh3_64((row.tools or "").encode())
    for message in prompt_messages(row):
        digest.update(_turn(message))
    return digest.intdigest() if prompt_messages(row) else 0


def _earlier_questions(row: Row) -> Iterator[int]:
    """Hashes of what stands before each trained answer of a conversation but the last."""
    digest = xxhash.xxh3_64((row.tools or "").encode())
    for message in prompt_messages(row):
        if is_trained(message):
            yield digest.intdigest()
        digest.update(_turn(message))


def _turn(message: Message) -> bytes:
    return f"\x1e{message['role']}\x1f{normalise(message_text(message))}".encode("utf-8", "surrogatepass")


def _reply(row: Row) -> str:
    return normalise(answer_text(row)) if row.messages else ""


def _compared(row: Row, shared: int) -> str:
    """The prompt and its answer; a short one, which must be equal anyway, would make any two short rows alike."""
    prompt, reply = _prompt(row)[shared:], _reply(row)
    return f"{prompt} {reply}".strip() if len(reply) > LONG_ANSWER else prompt


def _alike(one: Row, other: Row) -> bool:
    replies = answer_text(one).strip(), answer_text(other).strip()
    if replies[0] != replies[1] and min(map(len, map(normalise, replies))) <= LONG_ANSWER:
        return False
    both = [f"{prompt_text(row)}\n{answer_text(row)}" for row in (one, other)]
    return _frame(one) == _frame(other) and _same_marks(*both) and _differ_little(*both)


def _frame(row: Row) -> tuple[object, ...]:
    """What two rows that say nearly the same have equal to the character, but for the case of the last question."""
    users = [message["content"] for message in row.messages if message["role"] == "user"]
    system = [message["content"] for message in row.messages if message["role"] == "system"]
    calls = [calls_text(message) for message in row.messages]
    rejected = [message_text(message) for message in row.rejected]
    trained = [is_trained(message) for message in row.messages]
    return system, calls, row.tools, rejected, row.label, trained, normalise(users[-1]) if users[1:] else ""


def _same_marks(one: str, other: str) -> bool:
    """Return whether two texts have the same indentation and, where short, the same numbers and signs.

    C is not C++, and 2 + 2 is not 2 * 3. In a long text one number is one word of many. Texts of different line count
    were wrapped differently, so their indentation is not compared.
    """
    if one.count("\n") == other.count("\n") and indents(one) != indents(other):
        return False
    return max(len(one), len(other)) > LONG_ROW or (
        signs(one) == signs(other) and _NUMBER.findall(one) == _NUMBER.findall(other)
    )


def _differ_little(one: str, other: str) -> bool:
    """Return whether the sentences that only one text has are nearly those that only the other has.

    Two questions about one long passage share nearly all of their words, and ask different things.
    """
    left, right = (Counter(filter(None, _SENTENCE_END.split(text))) for text in (one, other))
    only = [" ".join((mine - theirs).elements()) for mine, theirs in ((left, right), (right, left))]
    first, second = map(normalise, only)
    if not first or not second:
        return len(first or second) <= ADDED_SHARE * min(len(one), len(other))
    grams = [{text[at : at + GRAM] for at in range(max(1, len(text) - GRAM + 1))} for text in (first, second)]
    wanted = QUESTION_LIKENESS if "?" in "".join(only) else SENTENCE_LIKENESS
    return len(grams[0] & grams[1]) >= wanted * len(grams[0] | grams[1])


def shared_prefix(given: Iterable[str]) -> int:
    """Characters of the whole words that all texts begin with, when there are ten different ones or more, else 0."""
    lowest = highest = None
    distinct: set[str] = set()
    for text in given:
        lowest = text if lowest is None else min(lowest, text)
        highest = text if highest is None else max(highest, text)
        if len(distinct) < PREFIX_TEXTS:
            distinct.add(text)
    if lowest is None or highest is None or len(distinct) < PREFIX_TEXTS:
        return 0
    low, high = lowest.split(" "), highest.split(" ")
    shared = 0
    while shared < min(len(low), len(high)) - 1 and low[shared] == high[shared]:
        shared += 1
    return sum(len(word) + 1 for word in low[:shared])  # what first and last begin with, all begin with
