"""Answers over time: app/views/samples.py."""

from __future__ import annotations

from app.views.samples import panels
from tests.app.reading import frames, texts
from tests.app.views.drawing import drawn

ONE = {"step": 1, "row": "a", "prompt": "2+2?", "expected": "4", "generated": " 4\n"}


def test_rows_keep_their_samples_in_order() -> None:
    records = [ONE, {**ONE, "row": "b"}, {**ONE, "step": 2}, {"row": "a"}, {"step": 3}, {"row": 1, "step": 1}]
    found = panels(records)
    assert {row: [sample["step"] for sample in samples] for row, samples in found.items()} == {
        "a": [1, 2],
        "b": [1],
    }


def test_white_space_makes_no_mistake() -> None:
    shown = drawn("samples.draw_samples", panels([ONE, {**ONE, "step": 2, "generated": "5"}]))
    (rows,) = frames(shown)
    assert [row["as expected"] for row in rows] == ["yes", "no"]


def test_what_is_missing_is_empty() -> None:
    (rows,) = frames(drawn("samples.draw_samples", panels([{"step": 1, "row": "a"}])))
    assert rows == [{"step": 1, "answer": "", "as expected": "yes"}]


def test_none_yet() -> None:
    assert "there has been none yet" in texts(drawn("samples.draw_samples", {}))[0]
