"""Signals as a request to stop: backend/utils/stop_signals.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import create_autospec

import pytest

from backend.utils.stop_signals import StopSignals

TWICE = """
import os, signal
from backend.utils.stop_signals import StopSignals
with StopSignals():
    os.kill(os.getpid(), signal.{first})
    print("noted", flush=True)
    os.kill(os.getpid(), signal.{second})
    print("too late")
"""


@pytest.fixture(autouse=True)
def a_terminal() -> Iterator[None]:
    """SIGHUP as a terminal leaves it; whoever runs the tests under nohup has it ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGTERM, "sigterm"), (signal.SIGINT, "sigint"), (signal.SIGHUP, "sighup")],
)
def test_the_first_is_noted_and_the_handlers_are_put_back(number: int, reason: str) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignals() as signals:
        assert signals.reason == ""
        os.kill(os.getpid(), number)
        assert signals.reason == reason
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize(
    ("first", "second", "code"), [("SIGTERM", "SIGINT", 130), ("SIGINT", "SIGTERM", 143)]
)
def test_the_second_leaves_at_once(first: str, second: str, code: int) -> None:
    script = TWICE.format(first=first, second=second)
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (child.stdout, child.returncode) == ("noted\n", code)


def test_a_closed_terminal_never_counts_as_a_second_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "_exit", create_autospec(os._exit, side_effect=AssertionError))
    with StopSignals() as signals:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert signals.reason == "sigterm"


def test_under_nohup_a_closed_terminal_is_not_heard() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.reason == ""
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_cannot_be_asked_but_works() -> None:
    def reason() -> str:
        with StopSignals() as signals:
            return signals.reason

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(reason).result() == ""
