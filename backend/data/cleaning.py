"""Cleaning by choice: repairing damaged Unicode and finding rows that repeat others.

Nothing here changes rows by itself; functions say what they found, and ``doctor`` proposes it as a fix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import xxhash
from ftfy import TextFixerConfig, fix_text
from ftfy.badness import is_bad

from backend.data.minhash import near_duplicates, overlap
from backend.data.records import Row
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
    first: dict[int, int] = {}
    found: dict[int, int] = {}
    for number, row in enumerate(rows):
        earlier = first.setdefault(row_hash(row), number)
        if earlier != number:
            found[number] = earlier
    return found


def near_duplicate_rows(rows: Sequence[Row], threshold: float = 0.8) -> dict[int, int]:
    """For each row that nearly repeats an earlier one, prompt and answer, that one: ``{later: earlier}``.

    Prompts are compared without what all of them begin with, so that a fixed instruction does not make
    different questions alike; short answers must be equal. Exact duplicates are found too. ``threshold`` is the
    Jaccard similarity of the pieces, 0 to 1.
    """
    prompts = without_shared_prefix([normalise(prompt_text(row)) for row in rows])
    replies = [_reply(row) for row in rows]
    found = near_duplicates(_joined(prompts, replies), threshold)
    return {
        later: first
        for later, first in found.items()
        if _alike(replies[later], replies[first]) and _same_signs(rows[later], rows[first])
    }


def find_leaks(train: Sequence[Row], evaluation: Sequence[Row], threshold: float = 0.8) -> list[Leak]:
    """Training rows that stand among the evaluation rows, in order of the training rows.

    An exact leak has the same prompt; a near one has nearly the same prompt and answer, as in
    ``near_duplicate_rows``.
    """
    both = without_shared_prefix([normalise(prompt_text(row)) for row in (*evaluation, *train)])
    held_out, mine = both[: len(evaluation)], both[len(evaluation) :]
    first: dict[tuple[str, str], int] = {}
    for number, (text, row) in enumerate(zip(held_out, evaluation, strict=True)):
        first.setdefault((text, signs(prompt_text(row))), number)
    asked = [(text, signs(prompt_text(row))) for text, row in zip(mine, train, strict=True)]
    exact = {number: first[key] for number, key in enumerate(asked) if key in first}
    replies, held_replies = [_reply(row) for row in train], [_reply(row) for row in evaluation]
    near = overlap(_joined(mine, replies), _joined(held_out, held_replies), threshold)
    leaks = [Leak(number, other, "exact") for number, other in exact.items()]
    leaks += [
        Leak(number, other, "near")
        for number, other in near.items()
        if number not in exact
        and _alike(replies[number], held_replies[other])
        and _same_signs(train[number], evaluation[other])
    ]
    return sorted(leaks, key=lambda leak: leak.train)


def _reply(row: Row) -> str:
    return normalise(answer_text(row)) if row.messages else ""


def _joined(prompts: Sequence[str], replies: Sequence[str]) -> list[str]:
    """Prompts with their answers; a short one, which must be equal anyway, would make any two short rows alike."""
    pairs = zip(prompts, replies, strict=True)
    return [f"{prompt} {reply}".strip() if len(reply) > LONG_ANSWER else prompt for prompt, reply in pairs]


def _alike(one: str, other: str) -> bool:
    return one == other or min(len(one), len(other)) > LONG_ANSWER


def _same_signs(one: Row, other: Row) -> bool:
    """Whether 2 + 2 does not stand beside 2 * 2, nor C beside C++; in long rows a sign is one letter of many."""
    both = [f"{prompt_text(row)}\n{answer_text(row)}" for row in (one, other)]
    return max(map(len, both)) > LONG_ROW or signs(both[0]) == signs(both[1])


def without_shared_prefix(texts_given: Sequence[str]) -> list[str]:
    """The texts without the whole words that all of them begin with, when there are ten different ones or more."""
    distinct = sorted(set(texts_given))
    if len(distinct) < PREFIX_TEXTS:
        return list(texts_given)
    low, high = distinct[0].split(" "), distinct[-1].split(" ")
    shared = 0
    while shared < min(len(low), len(high)) - 1 and low[shared] == high[shared]:
        shared += 1
    length = sum(
        len(word) + 1 for word in low[:shared]
    )  # what the first and the last begin with, all begin with
    return [text[length:] for text in texts_given]


def _key(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".!?") or text
