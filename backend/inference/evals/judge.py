"""Several models' answers to the same questions: scores with intervals, differences and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from backend.errors import TunesmithError
from backend.inference.evals.assertions import combined
from backend.inference.evals.labels import Confusion, commonest_share
from backend.inference.evals.paired import Difference, difference, holm, share_interval, verdict_of
from backend.inference.evals.spec import Case, Prompt
from backend.inference.evals.verdicts import OVERALL, Answer, Score
from backend.run.reports import Evaluation, MetricScore, MetricVerdict

GENERAL = "general questions"
Answered: TypeAlias = Answer | TunesmithError
Scores: TypeAlias = Mapping[str, Score]
"""Metric -> what its checks say of one answer."""


@dataclass(frozen=True)
class Turned:
    """A question that one model answers right and the other does not; ``reason``: why the wrong answer is wrong."""

    place: str
    prompt: str
    expected: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What was found: the ``evaluation`` that is kept, and every answer with its scores, model -> case by case.

    ``lost`` are the questions that the first model answers right and the tuned one does not, ``gained`` the others
    that differ. ``confusion`` has what was taken for what where labels were asked for, by model.
    """

    evaluation: Evaluation
    cases: Sequence[Case]
    answers: Mapping[str, Sequence[Answered]]
    scores: Mapping[str, Sequence[Scores]]
    lost: Sequence[Turned]
    gained: Sequence[Turned]
    confusion: Mapping[str, Confusion]


def text_of(answer: Answered) -> str:
    """Return the text of an answer, "" for a question that could not be asked."""
    return answer.text if isinstance(answer, Answer) else ""


def scores_of(case: Case, answer: Answered) -> dict[str, Score]:
    """Return what the checks of a case say, by metric, and ``OVERALL``; a question that failed passes nothing."""
    if isinstance(answer, TunesmithError):
        failed = Score(False, 0.0, answer.message)
        return {**{check.name: failed for check in case.checks}, OVERALL: failed}
    found = [(check, check(answer, case.row)) for check in case.checks]
    by_metric: dict[str, list[tuple[float, Score]]] = {}
    for check, score in found:
        by_metric.setdefault(check.name, []).append((check.weight or 1.0, score))
    overall = combined([(check.weight, score) for check, score in found], case.threshold)
    return {**{name: combined(scores, None) for name, scores in by_metric.items()}, OVERALL: overall}


def judge(
    cases: Sequence[Case],
    answers: Mapping[str, Sequence[Answered]],
    *,
    general: Mapping[str, Sequence[float]] = MappingProxyType({}),
    tuned: str,
    source: str = "",
    step: int = 0,
) -> Report:
    """Return the report on the answers of each model, of which ``tuned`` is compared with every other.

    ``general``: the probabilities of right answers to general questions, under the first model and ``tuned``. There
    must be a case, and the first model is the one whose questions are told that turned. The verdicts are
    corrected for their number (Holm), over all metrics and models; a metric whose checks weigh nothing has none.
    """
    scores = {model: [scores_of(case, each) for case, each in zip(cases, given, strict=True)]
              for model, given in answers.items()}  # fmt: skip
    metrics = list(dict.fromkeys(name for each in scores[tuned] for name in each))
    metrics.remove(OVERALL)
    if len(metrics) > 1:
        metrics.insert(0, OVERALL)
    counted = {OVERALL} | {check.name for case in cases for check in case.checks if check.weight}
    kept: list[MetricScore] = []
    found: list[MetricVerdict] = []
    for metric in metrics:
        column = _column(scores, metric)
        kept += [_metric_score(metric, model, given) for model, given in column.items() if given]
        if metric in counted:
            found += [_compared(metric, column[tuned], given, model, len(metrics) * (len(answers) - 1))
                      for model, given in column.items() if given and model != tuned]  # fmt: skip
    expected = [str(case.row["expected"]) for case in cases if case.row.get("expected") not in ("", None)]
    first = next(iter(answers))
    evaluation = Evaluation(
        step,
        source,
        len(cases),
        tuple(answers),
        tuple(kept),
        tuple(_corrected(found)),
        commonest_share(expected) if expected else None,
        _verdict(GENERAL, first, difference(general[tuned], general[first])) if general else None,
    )
    return Report(
        evaluation,
        cases,
        answers,
        scores,
        _turned(cases, answers, scores, first, tuned),
        _turned(cases, answers, scores, tuned, first),
        _confusion(cases, answers),
    )


def _column(scores: Mapping[str, Sequence[Scores]], metric: str) -> dict[str, list[Score]]:
    """Return a metric's scores by model, for the rows in which it is decided for one of them at least."""
    rows = list(zip(*scores.values(), strict=True))
    decided = [row for row in rows if any(metric in each and each[metric].decided for each in row)]
    return {model: [row[place][metric] for row in decided] for place, model in enumerate(scores)}


def _metric_score(metric: str, model: str, given: Sequence[Score]) -> MetricScore:
    passed = sum(score.passed for score in given)
    low, high = share_interval(passed, len(given))
    mean = sum(score.score for score in given) / len(given)
    return MetricScore(metric, model, len(given), passed / len(given), low, high, mean)


def _compared(
    metric: str, ours: Sequence[Score], theirs: Sequence[Score], model: str, comparisons: int
) -> MetricVerdict:
    mine, other = [each.score for each in ours], [each.score for each in theirs]
    return _verdict(metric, model, difference(mine, other, comparisons))


def _verdict(metric: str, model: str, found: Difference) -> MetricVerdict:
    return MetricVerdict(
        metric,
        model,
        found.rows,
        found.mean,
        found.low,
        found.high,
        found.p,
        str(found.verdict()),
        found.gained,
        found.lost,
    )


def _corrected(found: Sequence[MetricVerdict]) -> list[MetricVerdict]:
    """Return the verdicts by p-values that are corrected for the number of comparisons."""
    return [
        MetricVerdict(**{**vars(each), "p": p, "verdict": str(verdict_of(each.difference, p))})
        for each, p in zip(found, holm([each.p for each in found]), strict=True)
    ]


def _turned(
    cases: Sequence[Case],
    answers: Mapping[str, Sequence[Answered]],
    scores: Mapping[str, Sequence[Scores]],
    right: str,
    wrong: str,
) -> list[Turned]:
    """Return the questions that pass in the answers of ``right`` and not in those of ``wrong``."""
    return [
        Turned(
            case.place,
            shown_prompt(case.prompt),
            str(case.row.get("expected", "")),
            text_of(answers[right][number]),
            text_of(answers[wrong][number]),
            scores[wrong][number][OVERALL].reason,
        )
        for number, case in enumerate(cases)
        if scores[right][number][OVERALL].passed and not scores[wrong][number][OVERALL].passed
    ]


def shown_prompt(prompt: Prompt) -> str:
    """Return a prompt as it stands in a table: its last message."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def _confusion(cases: Sequence[Case], answers: Mapping[str, Sequence[Answered]]) -> dict[str, Confusion]:
    """Return what was taken for what, over the cases with a check for labels; empty without any."""
    places = [
        number
        for number, case in enumerate(cases)
        if case.row.get("expected") not in ("", None)
        and any(getattr(check, "word", "") == "label" for check in case.checks)
    ]
    expected = [str(cases[number].row["expected"]) for number in places]
    return {
        model: Confusion.of([text_of(given[number]) for number in places], expected)
        for model, given in answers.items()
        if places
    }
