"""Exact match on held-out rows, of the base and of the tuned model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backend.errors import TunesmithError
from backend.run.folder import RunDir
from backend.run.reports import HeldOutScores, same_answer
from backend.utils.file_utils import write_json_durably
from backend.utils.record_utils import record_to_json

Asked = tuple[str, Any, str]
"""The place of a row, its prompt and the answer that is expected."""
Answers = Sequence[str | TunesmithError]


@dataclass(frozen=True)
class Comparison:
    """The answers of both models to ``rows``, and the share that is exactly as expected, in [0, 1].

    Where a model could not answer, its answer is empty; ``unanswered`` counts that for the tuned model.
    """

    rows: Sequence[Asked]
    answers: dict[str, list[str]]
    exact_match: dict[str, float]
    unanswered: int


def compare(rows: Sequence[Asked], *, base: Answers, tuned: Answers) -> Comparison:
    """Return how the answers of two models compare; there must be a row."""
    answers = {
        name: [answer if isinstance(answer, str) else "" for answer in given]
        for name, given in (("base", base), ("tuned", tuned))
    }
    exact = {
        name: sum(same_answer(answer, row[2]) for answer, row in zip(given, rows, strict=True)) / len(rows)
        for name, given in answers.items()
    }
    return Comparison(rows, answers, exact, sum(not isinstance(answer, str) for answer in tuned))


def write_scores(run: RunDir, found: Comparison) -> None:
    """Write the scores of a run beside its result; a run without one gets none. Raises OSError."""
    outcome = run.read_outcome()
    if outcome is None or run.result_folder() is None:
        return
    scores = HeldOutScores(len(found.rows), found.unanswered, outcome.step, **found.exact_match)
    with run.hold_for_reading():
        write_json_durably(run.scores_file, record_to_json(scores))
