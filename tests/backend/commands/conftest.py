"""What the tests of several commands share."""

from __future__ import annotations

import pytest

from backend.manager import process_manager
from backend.run.folder import RunDir
from tests.backend.manager.conftest import stand_in


@pytest.fixture
def light_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command starts is kept by a real supervisor, but trains nothing; see stand_in.py."""

    def command(run: RunDir) -> tuple[str, ...]:
        return stand_in(run, "checkpoint", "steps=100")

    monkeypatch.setattr(process_manager, "trainer_command", command)
