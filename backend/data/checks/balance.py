"""Check 22, second part: how better and worse answers differ as a whole: in length, number and broken ends."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from backend.data.checks.base import Check, Example, Scan
from backend.data.checks.tokens import LONG_WORDS, breaks_off
from backend.data.records import Message, Row
from backend.data.store import rows_at
from backend.data.texts import message_text
from backend.errors import marked
from backend.run.methods import PAIRS
from backend.utils.text_utils import is_blank

FEW_PAIRS = 20
"""In fewer rows a difference in length may be chance."""
ONE_MIND = 0.9
LENGTH_RATIO = 2.0
RARE_SHARE = 0.2
CUT_SHARE, CUT_ROWS, CUT_TIMES = 0.05, 10, 3
"""Answers of one side are broken off: this share of them and this many, and so many times the other side's share."""


def length_bias(scan: Scan) -> Iterator[Example]:
    """Yield one example if length alone nearly tells the better answers from the worse ones.

    In pairs: chosen is longer in more than nine tenths, or on average twice or half as long. In judged rows: the
    good answers are on average twice or half as long as the bad ones. Lengths are in characters.
    """
    ratios = array("d")
    judged: dict[bool, array[float]] = {True: array("d"), False: array("d")}
    place = ""
    for row in scan.rows:
        if row.kind == PAIRS:
            ratios.append(_log_length(row.chosen) - _log_length(row.rejected))
            place = place or row.place
        elif row.label is not None:
            judged[row.label].append(_log_length(row.messages[-1:]))
            place = place or row.place
    if len(ratios) >= FEW_PAIRS:
        times, longer = math.exp(float(np.mean(ratios))), float(np.mean(np.frombuffer(ratios) > 0))
        if longer > ONE_MIND or _far_from_one(times):
            which = f"longer in {longer:.0%} of {len(ratios):,} pairs"
            yield Example(place, f"chosen is {which}, and {_times(times)} as rejected")
    if min(map(len, judged.values())) >= FEW_PAIRS:
        times = math.exp(float(np.mean(judged[True]) - np.mean(judged[False])))
        if _far_from_one(times):
            yield Example(place, f"good answers are {_times(times)} as bad ones")


def _far_from_one(times: float) -> bool:
    return max(times, 1 / times) >= LENGTH_RATIO


def _times(times: float) -> str:
    return f"on average {times:.1f} times as long"


def _log_length(messages: Sequence[Message]) -> float:
    return math.log(1 + sum(len(message_text(message)) for message in messages))


def one_class(scan: Scan) -> Iterator[Example]:
    """Yield one example if all ratings are the same."""
    good, bad, place = _ratings(scan)
    if good + bad and not min(good, bad):
        yield Example(place, f"all {good + bad:,} answers are judged {'good' if good else 'bad'}")


def one_sided(scan: Scan) -> Iterator[Example]:
    """Yield one example if less than a fifth of the ratings are good, or bad; not if all of them are the same."""
    good, bad, place = _ratings(scan)
    if 0 < min(good, bad) < RARE_SHARE * (good + bad):
        yield Example(place, f"{good:,} answers are judged good and {bad:,} bad")


def even_weights(scan: Scan) -> str:
    """Return the weight that makes both kinds of ratings count the same (Ethayarajh et al., KTO, 2024, eq. 8)."""
    good, bad, _ = _ratings(scan)
    name = "desirable_weight" if good < bad else "undesirable_weight"
    return (
        f"With {marked(f'objective.{name}', f'{max(good, bad) / min(good, bad):.1f}')} both count the same."
    )


def _ratings(scan: Scan) -> tuple[int, int, str]:
    """Return how many answers are judged good and bad, a pair being one of each, and the first place."""
    times: Counter[bool] = Counter()
    place = ""
    for row in scan.rows:
        if row.label is not None:
            times[row.label] += 1
            place = place or row.place
    pairs = sum(row.kind == PAIRS for row in scan.rows) if place else 0
    return times[True] + pairs, times[False] + pairs, place


def cut_off_side(scan: Scan) -> Iterator[Example]:
    """Yield the answers that break off or are empty on the side, better or worse, that has far more of them."""
    broken = array("b")
    for row in scan.rows:
        broken.extend(_broken(row))
    sides_of = np.frombuffer(broken, np.int8).reshape(-1, 2)
    counts = [(int((side >= 0).sum()), int((side == 1).sum())) for side in sides_of.T]
    shares = [cut / max(1, total) for total, cut in counts]
    for side, name in enumerate(("good", "bad")):
        enough = counts[side][1] >= CUT_ROWS and shares[side] >= CUT_SHARE
        if enough and shares[side] >= CUT_TIMES * shares[1 - side] and counts[1 - side][0]:
            for row in rows_at(scan.rows, np.flatnonzero(sides_of[:, side] == 1)):
                text = _last_text(row.answers()[side if row.chosen else 0].messages)
                yield Example(row.place, f"the {name} answer ends with {text[-40:]!r}")


def _broken(row: Row) -> tuple[int, int]:
    """Return for the good and the bad answer of a row: 1 if it breaks off, 0 if not, -1 if there is none."""
    if row.kind == PAIRS:
        good, bad = (int(_is_cut(_last_text(reply))) for reply in (row.chosen, row.rejected))
        return good, bad
    if row.label is None:
        return -1, -1
    cut = int(_is_cut(_last_text(row.messages)))
    return (cut, -1) if row.label else (-1, cut)


def _last_text(messages: Sequence[Message]) -> str:
    return message_text(messages[-1]).rstrip() if messages else ""


def _is_cut(text: str) -> bool:
    """Return whether an answer is empty or, where it is long, ends openly: in a word, or where a sentence goes on.

    Many good answers end in a word, in a list for example; but then those of the other side do as well.
    """
    long = len(text.split()) >= LONG_WORDS
    return is_blank(text) or (long and (text[-1].isalpha() or breaks_off(text)))


BALANCE_CHECKS = (
    Check(
        22,
        "length-bias",
        "Length nearly tells the better answers from the worse ones",
        "warn",
        "The model learns how long an answer should be instead of what makes it good. Bring answers of like length, "
        "or lessen the weight of length: `objective.method=simpo`, or in dpo `objective.loss_type=sigmoid_norm`.",
        over_all=length_bias,
        of_rows=False,
    ),
    Check(
        22,
        "one-class-ratings",
        "All ratings are the same",
        "block",
        "There is nothing to tell apart. Good answers alone are for `objective.method=sft`.",
        over_all=one_class,
        of_rows=False,
    ),
    Check(
        22,
        "one-sided-ratings",
        "Most ratings are the same",
        "warn",
        "The few others hardly count in training.",
        over_all=one_sided,
        of_rows=False,
        summary=even_weights,
    ),
    Check(
        22,
        "cut-off-replies",
        "Answers of one side break off",
        "warn",
        "The model learns to tell whole answers from cut ones, and little else. They are often cut by a limit of "
        "tokens where they were generated: generate them again with a higher one, or leave the rows out.",
        over_all=cut_off_side,
    ),
)
