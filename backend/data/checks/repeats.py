"""Checks 1, 2, 3 and 9: what stands twice: among the rows, among the held-out rows, in a prompt and its answer."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from backend.data.checks.base import Check, Example, Scan, given_answer
from backend.data.cleaning import first_of_each, near_duplicate_rows, row_pairs, text_hash
from backend.data.records import Row
from backend.data.store import chosen
from backend.data.texts import prompt_text
from backend.utils.text_utils import shorten

MAX_NEAR_ROWS = 300_000
LEAK_CHARACTERS = 8


def contamination(scan: Scan) -> Iterator[Example]:
    """Training rows whose prompt stands among the held-out rows, word for word."""
    yield from _leaks(scan, "exact", "the same prompt as")


def near_contamination(scan: Scan) -> Iterator[Example]:
    """Training rows that nearly repeat a held-out row, prompt and answer."""
    yield from _leaks(scan, "near", "nearly the same as")


def _leaks(scan: Scan, kind: str, how: str) -> Iterator[Example]:
    pairs = [(leak.train, leak.evaluation) for leak in scan.leaks if leak.kind == kind]
    yield from _repeats(scan.rows, scan.validation, pairs, how)


def _repeats(
    rows: Sequence[Row], others: Sequence[Row], pairs: Iterable[tuple[int, int]], how: str
) -> Iterator[Example]:
    for row, other in row_pairs(rows, others, pairs):
        yield Example(row.place, f"{how} {other.place}: {_shown(row)}")


def _shown(row: Row) -> str:
    return shorten(prompt_text(row), 160)


def duplicates(scan: Scan) -> Iterator[Example]:
    """Rows that repeat an earlier one, most repeated first."""
    times = Counter(scan.duplicates.values())
    pairs = sorted(scan.duplicates.items(), key=lambda pair: (-times[pair[1]], pair))
    yield from _repeats(scan.rows, scan.rows, pairs, "the same as")


def near_duplicates(scan: Scan) -> Iterator[Example]:
    """Rows that nearly repeat an earlier one and are not exact duplicates; the first 300,000 rows are compared."""
    rows = scan.rows[:MAX_NEAR_ROWS]
    pairs = (pair for pair in near_duplicate_rows(rows).items() if pair[0] not in scan.duplicates)
    yield from _repeats(rows, rows, pairs, "nearly the same as")


def conflicts(scan: Scan) -> Iterator[Example]:
    """Rows whose prompt has another answer in an earlier row."""
    hashes = array("Q")
    for row in scan.rows:
        prompt, answer = (
            " ".join(prompt_text(row).split()),
            given_answer(row),
        )  # another case may ask otherwise
        counts = prompt and answer and row.label is None
        hashes.extend((text_hash(prompt), text_hash(answer.strip())) if counts else (0, 0))
    prompts, answers = np.frombuffer(hashes, np.uint64).reshape(-1, 2).T
    first = first_of_each(prompts)
    found = np.flatnonzero((prompts != 0) & (answers != answers[first]))
    for row, earlier in row_pairs(
        scan.rows, scan.rows, zip(found.tolist(), first[found].tolist(), strict=True)
    ):
        yield Example(
            row.place,
            f"answers {shorten(given_answer(row), 40)!r} where {earlier.place} answers "
            f"{shorten(given_answer(earlier), 40)!r}",
        )


def answer_in_prompt(scan: Scan) -> Iterator[Example]:
    """Rows whose answer, 8 characters or more, stands in their own prompt as whole words; no labelling tasks."""
    if scan.labels:
        return
    hashes, held = array("Q"), array("b")
    for row in scan.rows:
        hashes.append(text_hash(given_answer(row)))
        held.append(_prompt_holds_answer(row))
    _, kind_of, times = np.unique(np.frombuffer(hashes, np.uint64), return_inverse=True, return_counts=True)
    found = np.flatnonzero(np.frombuffer(held, np.bool_) & (times[kind_of] == 1))
    for row in chosen(scan.rows, found):
        wanted = given_answer(row).strip()
        yield Example(row.place, f"the prompt already holds the answer {shorten(wanted, 60)!r}")


def _prompt_holds_answer(row: Row) -> bool:
    wanted = given_answer(row).strip()
    if len(wanted) < LEAK_CHARACTERS:
        return False
    given = "\n".join(message["content"] for message in row.messages if message["role"] == "user")
    found = len(wanted) < len(given) and wanted in given
    return found and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", given) is not None


REPEAT_CHECKS = (
    Check(
        1,
        "contamination",
        "Training rows stand in the evaluation set",
        "block",
        "The evaluation then measures memory instead of skill, and its score cannot be trusted.",
        over_all=contamination,
        needs="validation",
        fix="drop-leaks",
    ),
    Check(
        1,
        "near-contamination",
        "Training rows nearly repeat evaluation rows",
        "warn",
        "The score on these rows is partly memory; look whether they ask the same thing.",
        over_all=near_contamination,
        needs="validation",
        fix="drop-near-leaks",
    ),
    Check(
        2,
        "duplicates",
        "Rows stand more than once",
        "warn",
        "The model learns repeated rows by heart, and equal rows on both sides of a split inflate the score.",
        over_all=duplicates,
        escalate=(0.2, "block"),
        fix="drop-duplicates",
    ),
    Check(
        2,
        "near-duplicates",
        "Rows nearly repeat others",
        "warn",
        "They weigh more than others without teaching more, and leak across a random split.",
        over_all=near_duplicates,
        fix="drop-near-duplicates",
    ),
    Check(
        3,
        "conflicting-answers",
        "The same prompt has different answers",
        "warn",
        "The model cannot satisfy both, so it learns neither; often one of them is a labelling mistake.",
        over_all=conflicts,
    ),
    Check(
        9,
        "answer-in-prompt",
        "The prompt holds the answer",
        "warn",
        "The model learns to copy; if the answer is absent when it is used, it has learned nothing.",
        over_all=answer_in_prompt,
    ),
)
