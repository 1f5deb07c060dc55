"""Checks 12 and 21: the labels of a classification task and their order."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from backend.data.checks.base import Check, Example, Scan
from backend.data.store import rows_at
from backend.utils.text_utils import one_edit_apart

SMALL_CLASS = 10
SORTED_Z = -5.0

_JOINT = re.compile(r"(?<=[^\W\d_])[-_](?=[^\W\d_])")
"""A hyphen or an underscore between two letters: spare-part."""


def variants(labels: Sequence[str]) -> dict[str, str]:
    """Return ``{spelling: most common spelling}`` for labels that differ only in case, spacing or end marks."""
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for label in labels:
        groups[_key(label)][label] += 1
    return {
        spelling: usual
        for spellings in groups.values()
        for usual in [max(spellings, key=lambda each, of=spellings: (of[each], each))]  # type: ignore[misc]
        for spelling in spellings
        if spelling != usual
    }


def _key(label: str) -> str:
    """Return the common form of a label's spellings. Signs stay: -1 is not 1, and C is neither C++ nor C#."""
    words = _JOINT.sub(" ", " ".join(label.casefold().split()))
    return words.lstrip("\"'“‘").rstrip("\"'”’.,;: ") or label


def label_variants(scan: Scan) -> Iterator[Example]:
    """Yield rows whose label is another spelling of a more common one, or likely a typing mistake for it."""
    other = {**_misspelled(scan.labels), **variants(scan.labels)}
    found = [number for number, label in enumerate(scan.labels) if label in other]
    for row, number in zip(rows_at(scan.rows, np.asarray(found, np.int64)), found, strict=True):
        label = scan.labels[number]
        yield Example(row.place, f"the label {label!r} may mean the more common {other[label]!r}")


def small_classes(scan: Scan) -> Iterator[Example]:
    """Yield one example for each label with fewer than ten rows, smallest first."""
    times = Counter(scan.labels)
    for label, count in sorted(times.items(), key=lambda pair: (pair[1], pair[0])):
        if count < SMALL_CLASS:
            first = scan.rows[scan.labels.index(label)]
            yield Example(first.place, f"the label {label!r} has {count} row{'s' if count > 1 else ''}")


def imbalance(scan: Scan) -> Iterator[Example]:
    """Yield one example if the largest class has over ten times the rows of the median one, or half of all."""
    times = Counter(scan.labels).most_common()
    if not times:
        return
    (label, most), middle = times[0], times[len(times) // 2][1]
    if most > 10 * middle or 2 * most > len(scan.labels) * (1 if len(times) > 2 else 1.6):
        place = scan.rows[scan.labels.index(label)].place
        share = most / len(scan.labels)
        yield Example(place, f"always answering {label!r} would be right in {share:.0%} of the rows")


def sorted_labels(scan: Scan) -> Iterator[Example]:
    """Yield one example if labels stand in blocks: far fewer runs of equal labels than in random order.

    The runs test of Wald and Wolfowitz (1940) for several kinds; it fires below ``SORTED_Z`` standard deviations.
    """
    labels = scan.labels
    count = len(labels)
    if count < 20:
        return
    sizes = list(Counter(labels).values())
    squares, cubes = sum(size**2 for size in sizes), sum(size**3 for size in sizes)
    mean = (count * (count + 1) - squares) / count
    variance = (squares * (squares + count * (count + 1)) - 2 * count * cubes - count**3) / (
        count**2 * (count - 1)
    )
    runs = 1 + sum(one != two for one, two in pairwise(labels))
    if variance > 0 and (runs - mean) / variance**0.5 < SORTED_Z:
        yield Example(
            scan.rows[0].place,
            f"equal labels stand together: {runs:,} runs where a random order has {mean:,.0f}",
        )


def _misspelled(labels: Sequence[str]) -> dict[str, str]:
    times = Counter(labels)
    usual = [label for label in times if len(label) >= 5]
    return {
        label: other
        for label in usual
        for other in usual
        if times[label] * 10 <= times[other]
        and one_edit_apart(label.lower(), other.lower())
        and not _numbered(label)
    }


def _numbered(label: str) -> bool:
    return any(character.isdigit() for character in label)


LABEL_CHECKS = (
    Check(
        12,
        "label-variants",
        "Labels are spelled in several ways",
        "warn",
        "The model splits one class into several, and exact match counts right answers as wrong.",
        over_all=label_variants,
        fix="unify-labels",
    ),
    Check(
        12,
        "small-classes",
        "Some labels have fewer than ten rows",
        "warn",
        "Such a class is hardly learned and its score means nothing.",
        over_all=small_classes,
        of_rows=False,
    ),
    Check(
        12,
        "label-imbalance",
        "One label outweighs the others",
        "info",
        "A model that always gives this answer already scores high; compare with that figure.",
        over_all=imbalance,
        of_rows=False,
    ),
    Check(
        21,
        "sorted-labels",
        "The file is sorted by label",
        "info",
        "Harmless while rows are shuffled (the default); without shuffling the model forgets the first labels.",
        over_all=sorted_labels,
        of_rows=False,
    ),
)
