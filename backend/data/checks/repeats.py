"""Checks 1, 2, 3 and 9: what stands twice: among the rows, among the held-out rows, in a prompt and its answer."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

from backend.data.checks.base import Check, Example, Scan
from backend.data.cleaning import near_duplicate_rows
from backend.data.records import Row
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
    for leak in scan.leaks:
        if leak.kind == kind:
            row = scan.rows[leak.train]
            yield Example(row.place, f"{how} {scan.validation[leak.evaluation].place}: {_shown(row)}")


def _shown(row: Row) -> str:
    return shorten(prompt_text(row), 160)


def duplicates(scan: Scan) -> Iterator[Example]:
    """Rows that repeat an earlier one, most repeated first."""
    times = Counter(scan.duplicates.values())
    for later, earlier in sorted(scan.duplicates.items(), key=lambda pair: (-times[pair[1]], pair)):
        yield Example(
            scan.rows[later].place, f"the same as {scan.rows[earlier].place}: {_shown(scan.rows[later])}"
        )


def near_duplicates(scan: Scan) -> Iterator[Example]:
    """Rows that nearly repeat an earlier one and are not exact duplicates; the first 300,000 rows are compared."""
    rows = scan.rows[:MAX_NEAR_ROWS]
    for later, earlier in near_duplicate_rows(rows).items():
        if later not in scan.duplicates:
            yield Example(
                rows[later].place, f"nearly the same as {rows[earlier].place}: {_shown(rows[later])}"
            )


def conflicts(scan: Scan) -> Iterator[Example]:
    """Rows whose prompt has another answer in an earlier row."""
    first: dict[str, int] = {}
    for number, (row, answer) in enumerate(zip(scan.rows, scan.answers, strict=True)):
        prompt = " ".join(prompt_text(row).split())  # in another case it may ask for something else
        if not prompt or not answer or scan.rows[number].label is not None:
            continue
        earlier = first.setdefault(prompt, number)
        if scan.answers[earlier].strip() != answer.strip():
            yield Example(
                scan.rows[number].place,
                f"answers {shorten(answer, 40)!r} where {scan.rows[earlier].place} answers "
                f"{shorten(scan.answers[earlier], 40)!r}",
            )


def answer_in_prompt(scan: Scan) -> Iterator[Example]:
    """Rows whose answer, 8 characters or more, stands in their own prompt as whole words; no labelling tasks."""
    if scan.labels:
        return
    answers_seen: dict[str, int] = defaultdict(int)
    for answer in scan.answers:
        answers_seen[answer] += 1
    for row, answer in zip(scan.rows, scan.answers, strict=True):
        given = "\n".join(message["content"] for message in row.messages if message["role"] == "user")
        wanted = answer.strip()
        if (
            len(wanted) >= LEAK_CHARACTERS
            and answers_seen[answer] == 1
            and len(wanted) < len(given)
            and wanted in given
            and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", given)
        ):
            yield Example(row.place, f"the prompt already holds the answer {shorten(wanted, 60)!r}")


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
