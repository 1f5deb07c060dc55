"""Several models' answers to the same questions: backend/inference/evals/judge.py."""

from __future__ import annotations

from typing import Any

import pytest

from backend.errors import InferenceError
from backend.inference.evals.assertions import make_verifiers
from backend.inference.evals.judge import Answered, Report, judge, scores_of, shown_prompt, text_of
from backend.inference.evals.spec import Case
from backend.inference.evals.verdicts import OVERALL, Answer, Score

FAILED = InferenceError("It is too long.", remedy="Cut it.", code="too-long")
COLOURS = ["red", "blue", "red", "green"] * 10


def cases(*assertions: dict[str, Any], expected: list[str] = COLOURS) -> list[Case]:
    checks = make_verifiers(list(assertions), "assert")
    return [
        Case(f"a:{n}", f"q{n}", {"prompt": f"q{n}", "expected": wanted}, checks)
        for n, wanted in enumerate(expected)
    ]


def answers(texts: list[str]) -> list[Answered]:
    return [Answer(text) for text in texts]


def judged(*assertions: dict[str, Any], **models: list[str]) -> Report:
    given = {name: answers(texts) for name, texts in models.items()}
    return judge(cases(*assertions), given, tuned="tuned", source="x", step=3)


def test_a_model_that_is_better_and_one_that_is_not() -> None:
    found = judged({"type": "label"}, base=["red"] * 40, same=COLOURS, tuned=COLOURS).evaluation
    assert (found.step, found.source, found.rows, found.models) == (3, "x", 40, ("base", "same", "tuned"))
    assert {each.model: each.passed for each in found.scores} == {"base": 0.5, "same": 1.0, "tuned": 1.0}
    verdicts = {each.against: each for each in found.verdicts}
    assert (verdicts["base"].verdict, verdicts["same"].verdict) == ("better", "no difference seen")
    assert (verdicts["base"].difference, verdicts["base"].gained, verdicts["base"].lost) == (0.5, 20, 0)
    assert verdicts["base"].low < 0.5 < verdicts["base"].high
    assert found.chance == 0.5
    assert found.worse_than("base") == ()


def test_what_weighs_nothing_is_shown_and_has_no_verdict() -> None:
    short = {"type": "word-count", "value": {"max": 1}, "weight": 0, "metric": "short"}
    found = judged(
        {"type": "starts-with", "value": "a"}, short, base=["a"] * 40, tuned=["a b"] * 40
    ).evaluation
    assert {each.metric for each in found.scores} == {OVERALL, "starts-with", "short"}
    assert {each.metric for each in found.verdicts} == {OVERALL, "starts-with"}
    assert found.worse_than("base") == ()


def test_what_is_forgotten_is_told_apart() -> None:
    general = {"base": [0.5, 0.6, 0.7] * 10, "tuned": [0.1, 0.3, 0.2] * 10}
    given = {"base": answers(COLOURS), "tuned": answers(COLOURS)}
    found = judge(cases({"type": "label"}), given, general=general, tuned="tuned").evaluation
    assert found.forgetting
    assert (found.forgetting.verdict, found.forgetting.difference) == ("worse", pytest.approx(-0.4))
    assert found.worse_than("base") == ()


def test_shuffled_answers_are_worse_and_are_told_first() -> None:
    shuffled = [*COLOURS[1:], COLOURS[0]]
    report = judged({"type": "label"}, base=COLOURS, tuned=shuffled)
    (worse,) = report.evaluation.worse_than("base")
    assert worse.difference == -1
    assert len(report.lost) == 40
    first = report.lost[0]
    assert (first.place, first.prompt, first.expected) == ("a:0", "q0", "red")
    assert (first.before, first.after) == ("red", "blue")
    assert first.reason == "It is 'blue', not 'red'."
    assert report.gained == []
    assert report.confusion["base"].macro_f1() == 1
    assert report.confusion["tuned"].accuracy() == 0


def test_many_metrics_have_one_for_the_row_and_are_corrected_for() -> None:
    alone = judged({"type": "label"}, base=["red"] * 40, tuned=[*COLOURS[:12], *["red"] * 28]).evaluation
    many = judged(
        {"type": "label"},
        {"type": "word-count", "value": 1},
        {"type": "contains", "value": "e", "metric": "letter"},
        base=["red"] * 40,
        tuned=[*COLOURS[:12], *["red"] * 28],
    ).evaluation
    assert [each.metric for each in many.verdicts] == [OVERALL, "label", "word-count", "letter"]
    assert many.verdicts[1].p == pytest.approx(min(1.0, 4 * alone.verdicts[0].p))
    assert (alone.verdicts[0].verdict, many.verdicts[1].verdict) == ("better", "no difference seen")


def test_a_question_that_cannot_be_asked_passes_nothing() -> None:
    given = {"base": answers(COLOURS), "tuned": [FAILED, *answers(COLOURS[1:])]}
    report = judge(cases({"type": "not-contains", "value": "x"}), given, tuned="tuned")
    assert [each.passed for each in report.evaluation.scores] == [1.0, 39 / 40]
    assert (report.lost[0].after, report.lost[0].reason) == ("", "It is too long.")
    assert text_of(FAILED) == ""


def test_rows_that_no_model_can_be_judged_by_do_not_count() -> None:
    expected = ["red", "", "blue"]
    given = {"base": answers(["red", "x", "y"]), "tuned": answers(["red", "x", "blue"])}
    found = judge(cases({"type": "equals"}, expected=expected), given, tuned="tuned").evaluation
    assert [each.rows for each in found.scores] == [2, 2]
    assert judge(cases({"type": "equals"}, expected=[""] * 3), given, tuned="tuned").evaluation.scores == ()


def test_checks_of_one_metric_are_one() -> None:
    (case,) = cases(
        {"type": "contains", "value": "a", "metric": "form", "weight": 3},
        {"type": "contains", "value": "b", "metric": "form"},
        {"type": "contains", "value": "c", "metric": "shown", "weight": 0},
        expected=["x"],
    )
    found = scores_of(case, Answer("a"))
    assert found["form"] == Score(False, 0.75, "It does not contain 'b'.")
    assert not found["shown"].passed
    assert found[OVERALL].score == 0.75
    assert scores_of(case, Answer("ab"))[OVERALL].passed


def test_a_prompt_in_a_table_is_its_last_message() -> None:
    assert shown_prompt("text") == "text"
    assert shown_prompt([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]) == "b"
