"""Exact match of the base and the tuned model: backend/inference/scores.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from backend.errors import InferenceError, RunError
from backend.inference.scores import Asked, Preferences, compare, write_evaluation, write_scores
from backend.run.folder import RunDir
from backend.run.records import read_evaluations
from backend.run.reports import Evaluation

ROWS: list[Asked] = [("a:1", "one?", "1"), ("a:2", "two?", "2"), ("a:3", "three?", "3")]
TOO_LONG = InferenceError("It is too long.", remedy="Cut it.", code="too-long")


def test_each_model_has_its_share_of_exact_answers() -> None:
    found = compare(ROWS, base=["1", "x", "y"], tuned=["1", "2", "y"])
    assert found.exact_match == {"base": pytest.approx(1 / 3), "tuned": pytest.approx(2 / 3)}
    assert found.unanswered == 0


def test_a_row_that_cannot_be_asked_counts_as_wrong() -> None:
    found = compare(ROWS, base=[TOO_LONG, "2", "3"], tuned=["1", TOO_LONG, TOO_LONG])
    assert found.answers == {"base": ["", "2", "3"], "tuned": ["1", "", ""]}
    assert found.exact_match["tuned"] == pytest.approx(1 / 3)
    assert found.unanswered == 2


def test_an_answer_to_no_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="longer"):
        compare(ROWS, base=["1"], tuned=["1"])


def test_scores_lie_beside_a_result(trained: RunDir, tmp_path: Path) -> None:
    run = RunDir(Path(shutil.copytree(trained.path, tmp_path / trained.id)))
    write_scores(run, compare(ROWS, base=["", "", ""], tuned=["1", "2", "3"]))
    kept = json.loads(run.scores_file.read_text())
    outcome = run.read_outcome()
    assert outcome
    assert (
        kept.items() >= {"rows": 3, "unanswered": 0, "step": outcome.step, "base": 0.0, "tuned": 1.0}.items()
    )
    assert kept["pairs"] == 0

    write_scores(
        run,
        compare(ROWS, base=["", "", ""], tuned=["1", "2", "3"]),
        Preferences(pairs=4, base=1, tuned=2, gained=3),
    )
    kept = json.loads(run.scores_file.read_text())
    assert (kept["pairs"], kept["base_prefers"], kept["tuned_prefers"], kept["gained"]) == (
        4,
        0.25,
        0.5,
        0.75,
    )


def test_a_preference_is_a_likelier_better_answer_and_a_gain_one_over_the_base() -> None:
    base, tuned = [(-1.0, -2.0), (-3.0, -1.0), (-1.0, -1.0)], [(-1.5, -2.0), (-2.0, -1.0), (-1.0, -1.0)]
    found = Preferences.of(base, tuned)
    assert found == Preferences(pairs=3, base=1, tuned=1, gained=1)
    assert found.shares() == {"base": 1 / 3, "tuned": 1 / 3, "gained": 1 / 3}


def test_a_run_without_a_result_gets_none(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "a", "seed: 1")
    write_scores(run, compare(ROWS, base=["1", "2", "3"], tuned=["1", "2", "3"]))
    assert not run.scores_file.exists()


def test_nothing_is_written_into_a_run_that_is_being_deleted(trained: RunDir, tmp_path: Path) -> None:
    run = RunDir(Path(shutil.copytree(trained.path, tmp_path / trained.id)))
    run.scores_file.unlink(missing_ok=True)
    with run.hold_for_deleting(), pytest.raises(RunError) as caught:
        write_scores(run, compare(ROWS, base=["1", "2", "3"], tuned=["1", "2", "3"]))
    assert (caught.value.code, run.scores_file.exists()) == ("no-such-run", False)


def test_the_newest_evaluation_of_each_source_is_kept(trained: RunDir, tmp_path: Path) -> None:
    run = RunDir(Path(shutil.copytree(trained.path, tmp_path / trained.id)))
    for source, rows in (("a.yaml", 1), ("b.yaml", 2), ("a.yaml", 3)):
        write_evaluation(run, Evaluation(0, source, rows, ("base", "tuned"), (), ()))
    found = read_evaluations(run.evaluation_file).found
    assert [(each.source, each.rows, each.step) for each in found] == [("b.yaml", 2, 20), ("a.yaml", 3, 20)]


def test_one_on_fewer_rows_does_not_take_the_place_of_one_on_more(trained: RunDir, tmp_path: Path) -> None:
    run = RunDir(Path(shutil.copytree(trained.path, tmp_path / trained.id)))
    for rows in (160, 3, 5):
        write_evaluation(run, Evaluation(0, "held-out rows", rows, ("base", "tuned"), (), ()))
    assert [each.rows for each in read_evaluations(run.evaluation_file).found] == [160, 5]


def test_a_run_without_a_result_keeps_no_evaluation(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "a", "seed: 1")
    write_evaluation(run, Evaluation(0, "a.yaml", 1, ("base",), (), ()))
    assert not run.evaluation_file.exists()


def test_an_evaluation_beside_a_damaged_one_is_refused(trained: RunDir, tmp_path: Path) -> None:
    run = RunDir(Path(shutil.copytree(trained.path, tmp_path / trained.id)))
    run.evaluation_file.write_text("{")
    with pytest.raises(RunError, match=r"evaluation\.json"):
        write_evaluation(run, Evaluation(0, "a.yaml", 1, ("base",), (), ()))
    with pytest.raises(RunError, match=r"evaluation\.json"):
        read_evaluations(run.evaluation_file)
