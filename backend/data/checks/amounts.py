"""Checks 3, 9, 18 and 20: faults of the whole set: one answer for all, swapped columns, odd lengths, few rows."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator

import numpy as np

from backend.data.checks.base import Check, Example, Scan, given_answer
from backend.data.splits import group_text
from backend.data.store import rows_at
from backend.data.texts import last_reply, prompt_text, question_text, texts
from backend.utils.interval_utils import score_interval
from backend.utils.text_utils import shorten

ALIKE_ROWS = 20
"""In fewer rows one answer for all, or questions as answers, may be chance."""
ASKS_SHARE = 0.5
FEW_ROWS = 50
FEW_HELD_OUT = 20
MANY_EPOCHS = 10


# The first words of English requests. In other languages a question mark shows one.
_REQUEST = re.compile(
    r"(?i)\W{0,3}(?:(?:what|which|who|whom|whose|why|how|where|when)\b|(?:can|could|would|will|do|does|did|is|are|was|were|"
    r"should|has|have)\s+(?:you|i|we|it|he|she|they|there|this|that|the|a|an|my|your)\b|(?:please|write|explain|describe|"
    r"give|tell|show|list|name|find|translate|summari[sz]e|classify|rewrite|generate|suggest|compare|identify|convert|"
    r"provide|calculate|define|discuss|compose|design|imagine|answer|edit|categori[sz]e|say)\s)"
)
_ONE_SENTENCE = re.compile(r"[^.!?。！？؟\n]{1,400}[?？؟\u037e]\s*")


def one_answer(scan: Scan) -> Iterator[Example]:
    """Yield one example if every row has the same answer, to different questions."""
    rows = scan.rows
    if len(rows) < ALIKE_ROWS or rows[0].chosen or rows[0].label is not None:
        return
    answer, question = given_answer(rows[0]), question_text(rows[0])
    others = any(question_text(row) != question for row in rows)
    if others and answer.strip() and all(given_answer(row) == answer for row in rows):
        yield Example(rows[0].place, f"all {len(rows):,} rows answer {shorten(answer, 80)!r}")


def swapped_sides(scan: Scan) -> Iterator[Example]:
    """Yield one example if questions and requests are 50 percentage points more common in answers than prompts."""
    asks = array("b")
    for row in scan.rows:
        question, reply = prompt_text(row), last_reply(row)
        if row.messages and question.strip() and reply.strip():
            asks.extend((_asks(question), _asks(reply)))
    prompts, replies = np.frombuffer(asks, np.bool_).reshape(-1, 2).T
    if len(prompts) < ALIKE_ROWS or replies.mean() - prompts.mean() < ASKS_SHARE:
        return
    row = scan.rows[0]
    yield Example(
        row.place,
        f"{replies.mean():.0%} of the answers ask for something, but {prompts.mean():.0%} of the prompts: "
        f"the answer to {shorten(prompt_text(row), 60)!r} is {shorten(last_reply(row), 60)!r}",
    )


def _asks(text: str) -> bool:
    return bool(_REQUEST.match(text) or _ONE_SENTENCE.fullmatch(text))


def extreme_lengths(scan: Scan) -> Iterator[Example]:
    """Yield rows over four times as long as 99 % of the rows, and one-word answers if most are long.

    Lengths are in words; sets under 100 rows are not checked.
    """
    if len(scan.rows) < 100:
        return
    counts = array("q")
    for row in scan.rows:
        counts.extend((sum(len(text.split()) for text in texts(row)), len(given_answer(row).split())))
    lengths, words = np.frombuffer(counts, np.int64).reshape(-1, 2).T
    limit = 4 * int(np.sort(lengths)[int(0.99 * len(lengths))])
    long_answers = np.sort(words)[len(words) // 2] >= 20
    long = (lengths > limit) & (limit > 0)
    odd = np.flatnonzero(long | (long_answers & (words == 1)))
    for row, number in zip(rows_at(scan.rows, odd), odd.tolist(), strict=True):
        if long[number]:
            detail = f"{lengths[number]:,} words, where 99 % of the rows have at most {limit // 4:,}"
        else:
            detail = "the answer is a single word, where most have 20 or more"
        yield Example(row.place, detail)


def too_few(scan: Scan) -> Iterator[Example]:
    """Yield one example each for: no rows to hold out, few training rows, few held-out rows, many epochs."""
    count, held_out = len(scan.rows), len(scan.validation)
    place = scan.rows[0].place
    first = group_text(scan.rows[0])
    if not held_out and all(group_text(row) == first for row in scan.rows):
        same = "all rows have one prompt" if count > 1 else "this is the only row"
        yield Example(
            place, f"{same}, so none can be held out: training needs other rows in data.validation, or 0"
        )
    elif count < FEW_ROWS:
        yield Example(place, f"{count} training rows; {FEW_ROWS} is a usual minimum")
    if 0 < held_out < FEW_HELD_OUT:
        low, high = score_interval(round(0.8 * held_out), held_out)
        yield Example(
            scan.validation[0].place,
            f"{held_out} held-out rows: a score of 80 % could as well be {low:.0%} or {high:.0%}",
        )
    if scan.epochs > MANY_EPOCHS and count < 20 * FEW_ROWS:
        yield Example(place, f"{scan.epochs:g} epochs over {count:,} rows: the model will know them by heart")


AMOUNT_CHECKS = (
    Check(
        3,
        "one-answer",
        "Every row has the same answer",
        "block",
        "The model learns to say this whatever it is asked. Look whether the right column was read for the answer.",
        over_all=one_answer,
        of_rows=False,
    ),
    Check(
        9,
        "swapped-sides",
        "Prompts and answers look swapped",
        "warn",
        "The model learns to ask instead of to answer. Swap the columns (`columns.prompt`, `columns.completion`), "
        "unless questions are what it should write.",
        over_all=swapped_sides,
        of_rows=False,
    ),
    Check(
        18,
        "extreme-lengths",
        "Some rows are far longer or shorter than the others",
        "info",
        "A few very long rows set the memory and time of the whole run; check that they are meant.",
        over_all=extreme_lengths,
    ),
    Check(
        20,
        "too-few-rows",
        "There is too little data",
        "warn",
        "The model learns the rows by heart, and the score of few held-out rows is mostly chance.",
        over_all=too_few,
        of_rows=False,
    ),
)
