"""What a button does, and how it is show_errors when it did not work: app/actions.py."""

from __future__ import annotations

import threading
from unittest.mock import create_autospec

import pytest
from streamlit.testing.v1 import AppTest

from app.actions import stop_soon
from backend.errors import RunError
from backend.manager import process_manager
from backend.run.reports import RunStatus
from tests.app.reading import unescaped
from tests.app.states import Runs
from tests.eventually import eventually
from tests.logs import Logged


def test_what_can_be_mended_is_said_in_place() -> None:
    def script() -> None:
        from app.actions import show_errors
        from backend.errors import RunError

        with show_errors():
            raise RunError("No *room*.", remedy="Make some.", code="disk-low")

    (error,) = AppTest.from_function(script).run(timeout=30).error
    assert unescaped(error.value) == "No *room*.  \nMake some."


def test_what_comes_next_is_a_button_here() -> None:
    def script() -> None:
        from app.actions import show_errors
        from backend.errors import NextStep, RunError

        with show_errors():
            raise RunError("Served.", remedy="Stop it.", code="in-use", next_step=NextStep.STOP_SERVER)

    (error,) = AppTest.from_function(script).run(timeout=30).error
    assert unescaped(error.value) == "Served.  \nStop it. The Playground has a button for the server."


def test_anything_else_is_no_message() -> None:
    from app.actions import show_errors

    with pytest.raises(KeyError), show_errors():
        raise KeyError("a fault of ours")


def test_the_request_is_there_before_anything_else(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen, done = runs.running(), [], threading.Event()

    def stop(one: object, *, reason: str) -> None:
        seen.append((one, reason, run.stop_requested()))
        done.set()

    monkeypatch.setattr(process_manager, "stop", create_autospec(process_manager.stop, side_effect=stop))
    stop_soon(run, "paused")
    assert run.status() is RunStatus.STOPPING
    assert done.wait(20)
    assert seen == [(run, "paused", "paused")]


def test_a_run_that_was_over_already_is_no_fault(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    fake = create_autospec(process_manager.stop, side_effect=RunError("Over.", remedy="", code="not-running"))
    monkeypatch.setattr(process_manager, "stop", fake)
    run = runs.stopped()
    stop_soon(run, "stop-requested")
    assert eventually(lambda: "Over." in logged.text)
    assert run.status() is RunStatus.STOPPED
