"""Runs side by side: app/views/compare_tables.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.views.compare_tables import evaluation_row, score_words
from backend.manager.scalars import RunScalars
from backend.run.folder import RunDir
from tests.app.reading import stacked, texts
from tests.app.views.drawing import drawn


@pytest.mark.parametrize(
    ("share", "rows", "words"),
    [
        (0.75, 16, "75% (51 to 90 %) of 16 rows"),
        (1.0, 1000, "100% (100 to 100 %) of 1,000 rows"),
        (0.0, 2, "0% (0 to 66 %) of 2 rows"),
        (None, 16, "–"),
        (0.5, 0, "–"),
        (0.5, "many", "–"),
    ],
)
def test_a_score_with_its_interval(share: float | None, rows: object, words: str) -> None:
    assert score_words(share, rows) == words


@pytest.mark.parametrize(
    ("losses", "best"),
    [({0: 0.5, 10: 2.0, 20: 3.0}, "2 at step 10"), ({0: 0.5}, "–"), ({}, "–")],
    ids=["trained worse than not at all", "not trained yet", "never evaluated"],
)
def test_the_best_loss_is_one_of_the_trained_model(
    tmp_path: Path, losses: dict[int, float], best: str
) -> None:
    run = RunDir.create(tmp_path, "a", "seed: 1")
    with run.metrics_writer() as metrics:
        for step, loss in losses.items():
            metrics.append({"kind": "eval", "step": step, "seconds": 1.0, "eval/loss": loss})
    scalars = RunScalars(run)
    scalars.poll()
    assert evaluation_row("a", "running", scalars)["best held-out loss"] == best


def test_settings() -> None:
    shown = drawn("compare_tables.draw_settings", {"training.learning_rate": (None, 1e-4)}, ["a", "b"])
    assert stacked(shown) == [[{"setting": "training.learning_rate", "a": "–", "b": "0.0001"}]]
    assert texts(drawn("compare_tables.draw_settings", {}, ["a", "b"])) == ["Their settings are the same."]


def test_answers_to_rows_that_only_one_has() -> None:
    sample = {"step": 1, "row": "x", "prompt": "p" * 300, "expected": "e", "generated": "g"}
    shown = drawn("compare_tables.draw_answers", {"a": [sample], "b": []})
    assert stacked(shown) == [[{"asked": f"… {'p' * 240}", "expected": "e", "a": "g", "b": "–"}]]
