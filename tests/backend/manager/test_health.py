"""How a live run feels: backend/manager/health.py."""

from __future__ import annotations

import os
import signal
import time

import pytest

from backend.manager.health import Health, health
from backend.manager.process_manager import kill, start
from backend.reports import RunStatus
from backend.run_dir import RunDir
from backend.utils.process_utils import send_signal
from tests.backend.manager.conftest import stand_in
from tests.eventually import eventually


@pytest.mark.parametrize(
    ("feels", "responds"), [(Health(5, False), True), (Health(50, False), False), (Health(5, True), False)]
)
def test_silence_and_suspension_count(feels: Health, responds: bool) -> None:
    assert feels.is_responding(patience_seconds=10) is responds


def test_the_latest_sign_counts(run: RunDir) -> None:
    run.metrics_file.write_text("")
    run.train_log.write_text("")
    hour_ago, minute_ago = time.time() - 3600, time.time() - 60
    os.utime(run.metrics_file, (hour_ago, hour_ago))
    os.utime(run.train_log, (minute_ago, minute_ago))
    assert 59 < health(run).silent_seconds < 120


def test_f33_a_clock_that_went_back_is_no_silence(run: RunDir) -> None:
    run.metrics_file.write_text("")
    tomorrow = time.time() + 86400
    os.utime(run.metrics_file, (tomorrow, tomorrow))
    assert health(run).silent_seconds == 0.0


def test_f34_a_slow_disk_is_no_silence(run: RunDir) -> None:
    run.metrics_file.write_text("")
    five_seconds_ago = time.time() - 5
    os.utime(run.metrics_file, (five_seconds_ago, five_seconds_ago))
    assert health(run).is_responding()


def test_a_run_without_signs_is_not_silent(run: RunDir) -> None:
    assert health(run) == Health(0.0, False)


def test_a_damaged_attempt_is_no_suspension(run: RunDir) -> None:
    run.begin_attempt(("a",), pid=os.getpid())
    (run.attempts / "1.json").write_text("{")
    assert not health(run).is_suspended


def test_f06_a_suspended_trainer_is_seen(run: RunDir) -> None:
    start(run, command=stand_in(run, "steps=100000"))
    eventually(lambda: run.status() is RunStatus.RUNNING)
    attempt = run.latest_attempt()
    assert attempt is not None
    assert attempt.process is not None
    assert not health(run).is_suspended
    send_signal(attempt.process, signal.SIGSTOP)
    eventually(lambda: health(run).is_suspended)
    assert run.status() is RunStatus.RUNNING
    kill(run)
    assert not health(run).is_suspended
