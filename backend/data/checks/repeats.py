"""Checks 1, 2, 3 and 9: repeats among the rows, in the held-out rows, and of an answer in its prompt."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from backend.data.checks.base import Check, Example, Scan, given_answer
from backend.data.cleaning import (
    first_of_each,
    near_duplicate_rows,
    row_pairs,
    shared_answers,
    text_hash,
)
from backend.data.records import Row
from backend.data.store import rows_at
from backend.data.texts import last_reply, prompt_text, question_text
from backend.utils.text_utils import indents, shorten

MAX_NEAR_ROWS = 300_000
LEAK_CHARACTERS = 8


def contamination(scan: Scan) -> Iterator[Example]:
    """Yield training rows with the same prompt as a held-out row, all turns and tools included."""
    yield from _leaks(scan, "exact", "the same prompt as")


def near_contamination(scan: Scan) -> Iterator[Example]:
    """Yield training rows that nearly repeat a held-out row, or have its prompt at an earlier turn."""
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
    """Yield rows that equal an earlier one, most repeated first."""
    times = Counter(scan.duplicates.values())
    pairs = sorted(scan.duplicates.items(), key=lambda pair: (-times[pair[1]], pair))
    yield from _repeats(scan.rows, scan.rows, pairs, "the same as")


def near_duplicates(scan: Scan) -> Iterator[Example]:
    """Yield near-duplicates of earlier rows that are not exact ones; only the first 300,000 rows are compared."""
    rows = scan.rows[:MAX_NEAR_ROWS]
    pairs = (pair for pair in near_duplicate_rows(rows).items() if pair[0] not in scan.duplicates)
    yield from _repeats(rows, rows, pairs, "nearly the same as")


def shared_with_held_out(scan: Scan) -> Iterator[Example]:
    """Yield rows whose answer, a sentence or more, held-out rows give to another question."""
    pairs = shared_answers(scan.rows, scan.validation).items()
    yield from _repeats(scan.rows, scan.validation, pairs, "has the same answer as")


def shared_within(scan: Scan) -> Iterator[Example]:
    """Yield rows whose answer, a sentence or more, an earlier row gives to another question."""
    pairs = shared_answers(scan.rows, scan.rows).items()
    yield from _repeats(scan.rows, scan.rows, pairs, "has the same answer as")


def conflicts(scan: Scan) -> Iterator[Example]:
    """Yield rows whose question has a different last answer in an earlier row.

    Ratings and preferences give several answers to a question by design and are left out.
    """
    hashes = array("Q")
    for row in scan.rows:
        question, answer = _exact_question(row), last_reply(row).strip()
        counts = question and answer and row.label is None and not row.chosen and row.text is None
        hashes.extend((text_hash(question), text_hash(answer)) if counts else (0, 0))
    questions, replies = np.frombuffer(hashes, np.uint64).reshape(-1, 2).T
    first = first_of_each(questions)
    found = np.flatnonzero((questions != 0) & (replies != replies[first]))
    pairs = zip(found.tolist(), first[found].tolist(), strict=True)
    for row, earlier in row_pairs(scan.rows, scan.rows, pairs):
        yield Example(
            row.place,
            f"answers {shorten(last_reply(row), 40)!r} where {earlier.place} answers "
            f"{shorten(last_reply(earlier), 40)!r}",
        )


def _exact_question(row: Row) -> str:
    """Return the question with its case and indentation but without other spacing; "" without a prompt."""
    question = " ".join(question_text(row).split()) if prompt_text(row).strip() else ""
    return f"{question}\x1f{indents(question_text(row))}" if question else ""


def answer_in_prompt(scan: Scan) -> Iterator[Example]:
    """Yield rows whose unique answer, 8 characters or more, is in their own prompt; not in classification."""
    if scan.labels:
        return
    hashes, held = array("Q"), array("b")
    for row in scan.rows:
        hashes.append(text_hash(given_answer(row)))
        held.append(_prompt_holds_answer(row))
    _, kind_of, times = np.unique(np.frombuffer(hashes, np.uint64), return_inverse=True, return_counts=True)
    found = np.flatnonzero(np.frombuffer(held, np.bool_) & (times[kind_of] == 1))
    for row in rows_at(scan.rows, found):
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
        chosen_up_to=0.5,
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
        chosen_up_to=0.0,
    ),
    Check(
        1,
        "shared-answers",
        "Answers to held-out questions stand in the training rows",
        "warn",
        "If the questions are paraphrases, the score is memory. Split by answer (data.split_by: answer) or by a "
        "column that says what belongs together (data.columns: {group: …}).",
        over_all=shared_with_held_out,
        needs="validation",
    ),
    Check(
        1,
        "paraphrases",
        "One answer stands under several questions",
        "info",
        "If the questions are paraphrases, hold them out together: data.split_by: answer, or a column that is mapped "
        "to group.",
        over_all=shared_within,
        escalate=(0.2, "warn"),
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
        chosen_up_to=0.0,
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
