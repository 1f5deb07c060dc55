"""A face for every state: app/views/status_face.py."""

from __future__ import annotations

import pytest

from app.views.status_face import DAMAGED, FACES, HELD, PAUSED, face_of
from backend.run.reports import RunState, RunStatus
from tests.app.reading import badges, texts, unescaped
from tests.app.views.drawing import drawn


@pytest.mark.parametrize("status", RunStatus)
def test_every_state_has_a_face_of_its_own(status: RunStatus) -> None:
    others = [face for other, face in FACES.items() if other is not status]
    assert face_of(status) == FACES[status]
    assert FACES[status].words not in {face.words for face in others}
    assert FACES[status].icon not in {face.icon for face in others}


def test_the_special_ones() -> None:
    assert face_of(RunStatus.STOPPED, "paused") == PAUSED
    assert face_of(RunStatus.QUEUED, "held") == HELD
    assert face_of(RunStatus.FAILED, "damaged", "config.yaml is cut short") == DAMAGED


@pytest.mark.parametrize(
    ("status", "advised"), [(RunStatus.FAILED, 1), (RunStatus.RUNNING, 0), (RunStatus.FINISHED, 0)]
)
def test_state_and_advice(status: RunStatus, advised: int) -> None:
    shown = drawn("status_face.draw_state", "food", RunState(status, "why", "It *is* so.", "Do that."))
    assert badges(shown) == [FACES[status].words]
    assert "It *is* so." in [unescaped(text) for text in texts(shown)]
    assert len(shown.caption) == advised
