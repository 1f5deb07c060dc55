"""Exact match on held-out rows, of the base and of the tuned model, and what is kept of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.errors import TunesmithError
from backend.run.folder import RunDir
from backend.run.records import read_evaluations
from backend.run.reports import Evaluation, Evaluations, HeldOutScores, same_answer
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


@dataclass(frozen=True)
class Preferences:
    """Of ``pairs`` pairs: how many have a better answer that is likelier than the worse one.

    ``base`` and ``tuned``: under either model. ``gained``: in how many it gained more by training than the worse one,
    which is TRL's ``rewards/accuracies`` with the base as the reference.
    """

    pairs: int
    base: int
    tuned: int
    gained: int

    @classmethod
    def of(cls, base: Sequence[tuple[float, float]], tuned: Sequence[tuple[float, float]]) -> Preferences:
        """Count over (better, worse) log-probabilities of the same pairs; a tie is no preference."""
        both = list(zip(base, tuned, strict=True))
        return cls(
            len(both),
            sum(better > worse for better, worse in base),
            sum(better > worse for better, worse in tuned),
            sum(new[0] - old[0] > new[1] - old[1] for old, new in both),
        )

    def shares(self) -> dict[str, float]:
        """Return the shares by name, each 0 to 1."""
        counts = {"base": self.base, "tuned": self.tuned, "gained": self.gained}
        return {name: count / self.pairs for name, count in counts.items()}


def write_scores(run: RunDir, found: Comparison, preferences: Preferences | None = None) -> None:
    """Write the scores of a run beside its result; a run without one gets none. Raises OSError."""
    outcome = run.read_outcome()
    if outcome is None or run.result_folder() is None:
        return
    exact = found.exact_match
    scores = HeldOutScores(len(found.rows), found.unanswered, outcome.step, exact["base"], exact["tuned"])
    if preferences is not None:
        shares = preferences.shares()
        scores = replace(
            scores,
            pairs=preferences.pairs,
            base_prefers=shares["base"],
            tuned_prefers=shares["tuned"],
            gained=shares["gained"],
        )
    with run.hold_for_reading():
        write_json_durably(run.scores_file, record_to_json(scores))


def write_evaluation(run: RunDir, found: Evaluation) -> None:
    """Keep an evaluation of the result of a run beside it, in place of one of the same source on no more rows.

    Those of the result of another step are dropped; a run without a result keeps none. Raises OSError, and RunError
    where the file is damaged.
    """
    outcome = run.read_outcome()
    if outcome is None or run.result_folder() is None:
        return
    now = replace(found, step=outcome.step)
    others = read_evaluations(run.evaluation_file).of_step(outcome.step)
    kept = Evaluations((*(each for each in others if each.source != now.source or each.rows > now.rows), now))
    with run.hold_for_reading():
        write_json_durably(run.evaluation_file, record_to_json(kept))
