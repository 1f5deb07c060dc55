"""Runs side by side: app/views/compare_tables.py."""

from __future__ import annotations

import pytest

from app.views.compare_tables import score_words
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


def test_settings() -> None:
    shown = drawn("compare_tables.draw_settings", {"training.learning_rate": (None, 1e-4)}, ["a", "b"])
    assert stacked(shown) == [[{"setting": "training.learning_rate", "a": "–", "b": "0.0001"}]]
    assert texts(drawn("compare_tables.draw_settings", {}, ["a", "b"])) == ["Their settings are the same."]


def test_answers_to_rows_that_only_one_has() -> None:
    sample = {"step": 1, "row": "x", "prompt": "p" * 300, "expected": "e", "generated": "g"}
    shown = drawn("compare_tables.draw_answers", {"a": [sample], "b": []})
    assert stacked(shown) == [[{"asked": f"… {'p' * 240}", "expected": "e", "a": "g", "b": "–"}]]
