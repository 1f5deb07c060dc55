"""Checks 18 and 20: how long rows are and how many there are."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from backend.data.checks.base import Check, Example, Scan, given_answer
from backend.data.splits import group_text
from backend.data.store import chosen
from backend.data.texts import texts
from backend.utils.interval_utils import score_interval

FEW_ROWS = 50
FEW_HELD_OUT = 20
MANY_EPOCHS = 10


def extreme_lengths(scan: Scan) -> Iterator[Example]:
    """Rows over four times as long as 99 % of the others, and one-word answers where most are long.

    Lengths are in words; sets under 100 rows are left alone.
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
    for row, number in zip(chosen(scan.rows, odd), odd.tolist(), strict=True):
        if long[number]:
            detail = f"{lengths[number]:,} words, where 99 % of the rows have at most {limit // 4:,}"
        else:
            detail = "the answer is a single word, where most have 20 or more"
        yield Example(row.place, detail)


def too_few(scan: Scan) -> Iterator[Example]:
    """One example each: none to hold out or few training rows, few held-out rows, many epochs over few rows."""
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
