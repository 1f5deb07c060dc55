"""How far a run is and its figures: app/views/run_head.py."""

from __future__ import annotations

import pytest

from app.views.run_head import left_words
from backend.manager.curves import TimeLeft
from backend.run.reports import RunState, RunStatus
from tests.app.views.drawing import drawn

RUNNING = RunState(RunStatus.RUNNING, "training", "", "")
STOPPED = RunState(RunStatus.STOPPED, "stop-requested", "", "")


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (TimeLeft(600, 540, 660), "about 10 min left (9 min to 11 min)"),
        (TimeLeft(600, 599, 601), "about 10 min left"),
        (TimeLeft(0, 0, 0), "about 0 s left"),
    ],
)
def test_time_left_with_its_interval(left: TimeLeft, words: str) -> None:
    assert left_words(left) == words


def test_before_the_first_step_of_a_live_run() -> None:
    (bar,) = drawn("run_head.draw_progress", RUNNING, 0, 0, None).get("progress")
    assert bar.proto.text.startswith("Getting ready")


def test_a_run_at_rest_that_never_stepped_has_no_bar() -> None:
    assert len(drawn("run_head.draw_progress", STOPPED, 0, 0, None).get("progress")) == 0


def test_more_steps_than_planned_fill_the_bar() -> None:
    (bar,) = drawn("run_head.draw_progress", RUNNING, 12, 10, TimeLeft(0, 0, 0)).get("progress")
    assert bar.proto.value == 100


def test_only_what_is_known_is_shown() -> None:
    shown = drawn("run_head.draw_latest", {"train/loss": 0.5, "eval/loss": "nan", "other": 1})
    assert [(one.label, one.value) for one in shown.metric] == [("Loss", "0.5")]
    assert len(drawn("run_head.draw_latest", {}).metric) == 0
