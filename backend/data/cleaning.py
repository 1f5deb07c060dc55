"""Cleaning by choice: repairing damaged Unicode and finding rows that repeat others.

Nothing here changes rows by itself; functions say what they found, and ``doctor`` proposes it as a fix.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash
from ftfy import TextFixerConfig, fix_text
from ftfy.badness import is_bad

from backend.data.minhash import Hashes, near_duplicates, overlap
from backend.data.records import Row
from backend.data.store import chosen
from backend.data.texts import answer_text, map_texts, prompt_text, texts
from backend.utils.text_utils import normalise, signs

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
LONG_ROW = 400
PREFIX_TEXTS = 10


@dataclass(frozen=True, slots=True)
class Leak:
    """A training row that an evaluation row repeats; ``kind`` is ``exact`` (same prompt) or ``near``."""

    train: int
    evaluation: int
    kind: str


def is_damaged(text: str) -> bool:
    """Whether a text holds mojibake (UTF-8 read as another encoding) or characters no text should hold."""
    if text.isascii():
        return "\0" in text
    return "\ufffd" in text or "\0" in text or "\ufeff" in text or bool(is_bad(text))


def repair_text(text: str) -> str:
    """The text with mojibake undone and with NUL, stray byte-order marks and control characters taken out.

    Uses ftfy (Speer, "ftfy", Zenodo 2019) with every setting off that touches sound text.
    """
    return fix_text(text, _REPAIR)


def repair_row(row: Row) -> Row:
    """The row with its damaged texts repaired, or the same object when none is damaged."""
    return map_texts(row, lambda text: repair_text(text) if is_damaged(text) else text)


def row_hash(row: Row) -> int:
    """A 64-bit hash of everything the row says and trains, blind to case, spacing and end marks."""
    messages = (*row.messages, {"role": "|", "content": ""}, *row.chosen)
    parts = [f"{each['role']}{each.get('trained', True)}\x1f{_key(each['content'])}" for each in messages]
    parts += [_key(text) for text in texts(row)]
    parts += [str(row.label), *(str(trained) for _, trained in row.segments)]
    parts += [",".join(map(str, row.input_ids)), ",".join(map(str, row.labels))]
    return int(xxhash.xxh3_64_intdigest("\x1e".join(parts).encode("utf-8")))


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
    return zip(chosen(rows, numbers[:, 0]), chosen(others, numbers[:, 1]), strict=True)


def near_duplicate_rows(rows: Sequence[Row], threshold: float = 0.8) -> dict[int, int]:
    """For each row that nearly repeats an earlier one, prompt and answer, that one: ``{later: earlier}``.

    Prompts are compared without what all of them begin with, so that a fixed instruction does not make
    different questions alike; short answers must be equal. Exact duplicates are found too. ``threshold`` is the
    Jaccard similarity of the pieces, 0 to 1.
    """
    shared = shared_prefix(map(_prompt, rows))
    found = near_duplicates((_compared(row, shared) for row in rows), threshold)
    both = row_pairs(rows, rows, found.items())
    return {later: first for (later, first), pair in zip(found.items(), both, strict=True) if _alike(*pair)}


def find_leaks(train: Sequence[Row], evaluation: Sequence[Row], threshold: float = 0.8) -> list[Leak]:
    """Training rows that stand among the evaluation rows, in order of the training rows.

    An exact leak has the same prompt; a near one has nearly the same prompt and answer, as in
    ``near_duplicate_rows``.
    """
    first: dict[tuple[str, str], int] = {}
    for number, row in enumerate(evaluation):
        first.setdefault(_question(row), number)
    asked = ((number, first.get(_question(row))) for number, row in enumerate(train))
    exact = {number: other for number, other in asked if other is not None}
    shared = shared_prefix(map(_prompt, itertools.chain(evaluation, train)))
    mine, theirs = ((_compared(row, shared) for row in rows) for rows in (train, evaluation))
    near = [pair for pair in overlap(mine, theirs, threshold).items() if pair[0] not in exact]
    leaks = [Leak(number, other, "exact") for number, other in exact.items()]
    both = row_pairs(train, evaluation, near)
    leaks += [Leak(*numbers, "near") for numbers, pair in zip(near, both, strict=True) if _alike(*pair)]
    return sorted(leaks, key=lambda leak: leak.train)


def _prompt(row: Row) -> str:
    return normalise(prompt_text(row))


def _question(row: Row) -> tuple[str, str]:
    return _prompt(row), signs(prompt_text(row))


def _reply(row: Row) -> str:
    return normalise(answer_text(row)) if row.messages else ""


def _compared(row: Row, shared: int) -> str:
    """The prompt and its answer; a short one, which must be equal anyway, would make any two short rows alike."""
    prompt, reply = _prompt(row)[shared:], _reply(row)
    return f"{prompt} {reply}".strip() if len(reply) > LONG_ANSWER else prompt


def _alike(one: Row, other: Row) -> bool:
    replies = _reply(one), _reply(other)
    return (replies[0] == replies[1] or min(map(len, replies)) > LONG_ANSWER) and _same_signs(one, other)


def _same_signs(one: Row, other: Row) -> bool:
    """Whether 2 + 2 does not stand beside 2 * 2, nor C beside C++; in long rows a sign is one letter of many."""
    both = [f"{prompt_text(row)}\n{answer_text(row)}" for row in (one, other)]
    return max(map(len, both)) > LONG_ROW or signs(both[0]) == signs(both[1])


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
    return sum(
        len(word) + 1 for word in low[:shared]
    )  # what the first and the last begin with, all begin with


def _key(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".!?") or text
