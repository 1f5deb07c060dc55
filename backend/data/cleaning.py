"""Repair damaged Unicode and find rows that repeat others.

Nothing here changes rows by itself: ``doctor`` reports what is found, and ``fixes`` are applied by choice.
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

# Repair only what is certainly damage; quotes, ligatures, entities and line breaks may be meant.
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
"""Shorter answers must be equal for two rows to be near-duplicates."""
LONG_ROW = 400
"""In shorter rows all numbers and signs must be equal for two rows to be near-duplicates."""
SENTENCE_WORDS = 4
LONG_LABEL = 60
"""A longer answer is not a label."""
PREFIX_TEXTS = 10
MIN_ACCENTED = 8
"""Accented letters from which a text can be said to consist of them."""
ADDED_SHARE = 0.2
SENTENCE_LIKENESS, QUESTION_LIKENESS = 0.5, 0.8
"""The least Jaccard similarity of the sentences in which two rows differ, in pieces of ``GRAM`` characters."""

_ENCODE = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode
_LATIN_1_LETTER = re.compile("[\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u00ff]")
_NUMBER = re.compile(r"\d+")
_SENTENCE_END = re.compile(r"\n++|(?<=[.!?])\s++|(?<=[。！？])")

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Leak:
    """A training row that an evaluation row repeats, by their numbers; ``kind`` is ``exact`` or ``near``."""

    train: int
    evaluation: int
    kind: str


def is_damaged(text: str) -> bool:
    """Return whether a text was read in the wrong encoding or has characters that no text should have."""
    if text.isascii():
        return "\0" in text
    return "\ufffd" in text or "\0" in text or "\ufeff" in text or bool(is_bad(text)) or _is_all_accents(text)


def _is_all_accents(text: str) -> bool:
    """Return whether most letters are accented Latin-1, as when Cyrillic or Greek is read in that encoding."""
    accented = len(_LATIN_1_LETTER.findall(text))
    return accented >= MIN_ACCENTED and 2 * accented > sum(map(str.isalpha, text))


def repair_text(text: str) -> str:
    """Return a text with mojibake in its prose repaired, and without NUL and stray byte-order marks.

    Code and addresses stay as they are. Uses ftfy (Speer, "ftfy", Zenodo 2019) with every setting off that changes
    undamaged text.
    """
    if not is_damaged(text):
        return text
    return map_prose(text.replace("\0", "").replace("\ufeff", ""), lambda part: fix_text(part, _REPAIR))


def repair_row(row: Row) -> Row:
    """Return the row with its damaged texts repaired; the same object if none is damaged."""
    return map_texts(row, repair_text)


def row_hash(row: Row) -> int:
    """Return a 64-bit hash of every field of a row except its place and its group."""
    texts = (row.messages, row.text, row.tools, row.chosen, row.rejected, row.label, row.segments)
    return text_hash(_ENCODE((*texts, row.input_ids, row.labels)))


def exact_duplicates(rows: Iterable[Row]) -> dict[int, int]:
    """Return ``{later: earlier}``, by numbers, for each row that equals an earlier one."""
    first = first_of_each(np.fromiter(map(row_hash, rows), np.uint64))
    later = np.flatnonzero(first != np.arange(len(first)))
    return dict(zip(later.tolist(), first[later].tolist(), strict=True))


def first_of_each(hashes: Hashes) -> npt.NDArray[np.int64]:
    """Return for each hash the number of the first one equal to it."""
    _, first, kind_of = np.unique(hashes, return_index=True, return_inverse=True)
    return np.asarray(first[kind_of], np.int64)


def text_hash(text: str) -> int:
    """Return a 64-bit hash of a text."""
    return int(xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")))


def row_pairs(
    rows: Sequence[Row], others: Sequence[Row], pairs: Iterable[tuple[int, int]]
) -> Iterator[tuple[Row, Row]]:
    """Yield for each pair of numbers the row of ``rows`` and the row of ``others``."""
    numbers = np.fromiter(itertools.chain.from_iterable(pairs), np.int64).reshape(-1, 2)
    return zip(rows_at(rows, numbers[:, 0]), rows_at(others, numbers[:, 1]), strict=True)


def near_duplicate_rows(rows: Sequence[Row], threshold: float = 0.8) -> dict[int, int]:
    """Return ``{later: earlier}``, by numbers, for each row that nearly repeats an earlier one, prompt and answer.

    The beginning that all prompts share is left out, so that a fixed instruction does not make different questions
    alike. Short answers must be equal, and so must system messages, tools, calls, rejected replies and, in a
    conversation, the last question. Exact duplicates are found too. ``threshold`` is the Jaccard similarity of the
    texts' pieces, 0 to 1.
    """
    shared = shared_prefix(map(_prompt, rows))
    found = near_duplicates((_compared(row, shared) for row in rows), threshold)
    both = row_pairs(rows, rows, found.items())
    return {later: first for (later, first), pair in zip(found.items(), both, strict=True) if _alike(*pair)}


def find_leaks(train: Sequence[Row], evaluation: Sequence[Row], threshold: float = 0.8) -> list[Leak]:
    """Return the training rows that evaluation rows repeat, in order of the training rows.

    In an exact leak everything before the last answer is equal but for case, spacing and punctuation. A near one has
    nearly the same prompt and answer, as in ``near_duplicate_rows``, or asks the same at an earlier turn.
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
    """Return ``{row: other}``, by numbers, for each row whose answer one of ``others`` gives to another question.

    Such rows are likely paraphrases of one question. Answers that may be labels (no sentence, at most ``LONG_LABEL``
    characters), replies of preference rows and answers judged bad are left out.
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
    """Return the hash of an answer that is a sentence or longer than a label, else 0."""
    learned = not (row.chosen or row.rejected or row.text is not None or row.label is False)
    answer = last_reply(row).strip() if learned else ""
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
    """Return the hash of the whole prompt and tools, to compare with ``_earlier_questions``; 0 without a prompt."""
    digest = xxhash.xxh3_64((row.tools or "").encode())
    for message in prompt_messages(row):
        digest.update(_turn(message))
    return digest.intdigest() if prompt_messages(row) else 0


def _earlier_questions(row: Row) -> Iterator[int]:
    """Yield the hash of everything before each trained answer of a conversation except the last."""
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
    """Return the prompt and answer for the comparison.

    A short answer is left out: it must be equal anyway, and would make any two rows with short prompts alike.
    """
    prompt, reply = _prompt(row)[shared:], _reply(row)
    return f"{prompt} {reply}".strip() if len(reply) > LONG_ANSWER else prompt


def _alike(one: Row, other: Row) -> bool:
    replies = answer_text(one).strip(), answer_text(other).strip()
    if replies[0] != replies[1] and min(map(len, map(normalise, replies))) <= LONG_ANSWER:
        return False
    both = [f"{prompt_text(row)}\n{answer_text(row)}" for row in (one, other)]
    return _fixed_parts(one) == _fixed_parts(other) and _same_marks(*both) and _differ_little(*both)


def _fixed_parts(row: Row) -> tuple[object, ...]:
    """Return the parts of a row that must be equal in near-duplicates."""
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
    """Return whether the sentences found only in one text are similar to those found only in the other.

    Two questions about the same long passage share nearly all of their words and still ask different things.
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
    """Return the length of the whole words that all texts begin with; 0 for fewer than ten different texts."""
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
    return sum(
        len(word) + 1 for word in low[:shared]
    )  # a prefix of the lowest and highest is a prefix of all
