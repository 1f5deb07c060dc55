"""The end of a log and what happened: app/views/log_view.py."""

from __future__ import annotations

from app.views.text import in_local_time
from backend.manager.explain import Explanation, FlightStep
from tests.app.reading import frames, texts, unescaped
from tests.app.views.drawing import drawn


def test_lines_as_they_are() -> None:
    shown = drawn("log_view.draw_log", ["<b>one</b>", "[two](x)"], gap=True)
    assert shown.code[0].value == "<b>one</b>\n[two](x)"
    assert "Older lines are in the file." in texts(shown)


def test_nothing_printed_yet() -> None:
    shown = drawn("log_view.draw_log", [])
    assert len(shown.code) == 0
    assert texts(shown)[0].startswith("The log is empty.")


def test_times_are_those_of_the_person_and_the_exact_ones_are_kept() -> None:
    moment = "2026-11-23T02:35:14.132+00:00"
    told = Explanation("run", "failed", "why", "It broke.", (f"It began on {moment}.",), ("Wait.",), (), ())
    shown = drawn("log_view.draw_explanation", told, "")
    assert moment in shown.markdown[0].proto.help
    assert moment not in " ".join(texts(shown))
    assert f"It began on {in_local_time(moment)[0]}." in unescaped(" ".join(texts(shown)))


def test_what_happened() -> None:
    step = FlightStep(12, float("nan"), 1.5, 1e-3, ("a:1", "a:2", "a:3", "a:4", "a:5"), 0)
    told = Explanation("run", "failed", "why", "It broke.", ("Found *this*.",), ("Do that.",), (), (step,))
    shown = drawn("log_view.draw_explanation", told, "tunesmith runs resume there")
    assert shown.code[0].value == "tunesmith runs resume there"
    said = [unescaped(text) for text in texts(shown)]
    assert "- Found *this*." in said
    assert "- Do that." in said
    (rows,) = frames(shown)
    assert rows == [
        {
            "step": "12",
            "loss": "–",
            "gradient norm": "1.5",
            "learning rate": "0.001",
            "rows": "a:1, a:2, a:3, a:4",
        }
    ]
