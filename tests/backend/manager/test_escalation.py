"""What follows a stop request that nobody heeds: backend/manager/escalation.py, on a clock of its own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from backend.manager import escalation
from backend.manager.escalation import Escalation, Policy
from backend.reports import Attempt


def test_escalation_asks_once_then_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    clock = iter([100.0, 101.0, 102.5, 103.0, 111.0])
    monkeypatch.setattr(escalation, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(escalation, "ask_to_end", lambda _: calls.append("term"))
    monkeypatch.setattr(escalation, "kill_all", lambda _: calls.append("kill"))
    pressure = Escalation(Attempt(1, "now", ("a",)), Policy(term_seconds=2, grace_seconds=10))
    for _ in range(5):
        pressure.tick()
    assert calls == ["term", "kill"]
    assert pressure.forced


def test_nothing_happens_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(escalation, "ask_to_end", lambda _: calls.append("term"))
    monkeypatch.setattr(escalation, "kill_all", lambda _: calls.append("kill"))
    pressure = Escalation(Attempt(1, "now", ("a",)), Policy())
    pressure.tick()
    assert (calls, pressure.forced) == ([], False)
