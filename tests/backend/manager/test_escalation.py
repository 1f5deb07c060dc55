"""What follows a stop request that nobody heeds: backend/manager/escalation.py, on a clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from backend.manager import escalation
from backend.manager.escalation import Escalation, Policy
from backend.run.folder import RunDir
from backend.run.pace import Patience
from backend.run.reports import Attempt

ATTEMPT = Attempt(1, "now", ("a",))
Calls = Callable[..., list[str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Ticks an escalation at the given seconds and returns whom it signalled how."""

    def tick(pressure: Escalation, *seconds: float, at_once: bool = False) -> list[str]:
        sent: list[str] = []
        clock = iter(seconds)
        monkeypatch.setattr(escalation, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        monkeypatch.setattr(escalation, "ask_to_end", lambda *_: sent.append("term"))
        monkeypatch.setattr(escalation, "kill_all", lambda *_: sent.append("kill"))
        for _ in seconds:
            pressure.tick(at_once=at_once)
        return sent

    return tick


def test_escalation_asks_once_then_kills(run: RunDir, calls: Calls) -> None:
    pressure = Escalation(run, ATTEMPT, Policy(term_seconds=2, grace_seconds=10))
    assert calls(pressure, 100.0, 101.0, 102.5, 103.0, 111.0) == ["term", "kill"]
    assert pressure.forced


def test_nothing_happens_at_once(run: RunDir, calls: Calls) -> None:
    pressure = Escalation(run, ATTEMPT, Policy())
    assert (calls(pressure, 0.0), pressure.forced) == ([], False)


def test_without_a_written_request_the_trainer_is_told_at_once(run: RunDir, calls: Calls) -> None:
    assert calls(Escalation(run, ATTEMPT, Policy()), 0.0, 0.1, at_once=True) == ["term"]


def test_the_grace_is_that_of_the_run_s_own_steps(
    run: RunDir, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(escalation, "patience", lambda *_: Patience(180.0, "its steps take up to 45 s"))
    assert calls(Escalation(run, ATTEMPT, Policy()), 0.0, 31.0, 179.0, 181.0) == ["term", "kill"]


@pytest.mark.parametrize(("wait", "sent"), [(5.0, ["term", "kill"]), (500.0, ["term"])])
def test_the_grace_is_what_the_request_says(run: RunDir, calls: Calls, wait: float, sent: list[str]) -> None:
    run.request_stop(wait_seconds=wait)
    pressure = Escalation(run, ATTEMPT, Policy(grace_seconds=10))
    assert calls(pressure, 0.0, 20.0) == sent


def test_a_later_request_may_give_more_time(run: RunDir, calls: Calls) -> None:
    run.request_stop(wait_seconds=5)
    pressure = Escalation(run, ATTEMPT, Policy())
    calls(pressure, 0.0, 4.0)
    run.request_stop(wait_seconds=50)
    assert calls(pressure, 20.0) == []
