"""The signs of life that managers watch: backend/manager/health.py."""

from __future__ import annotations

import os
import time

from backend.manager.health import health
from backend.run.environment import Environment
from backend.run.folder import RunDir


def test_the_latest_attempt_is_the_one_that_counts(run: RunDir) -> None:
    run.begin_attempt(("a",), pid=os.getpid())
    assert health(run).is_responding


def test_a_damaged_record_leaves_the_silence(run: RunDir) -> None:
    run.begin_attempt(("a",), pid=os.getpid())
    run.write_environment(Environment())
    run.attempt_file(1).write_text("{")
    an_hour_ago = time.time() - 3600
    for path in (run.environment, run.attempts):
        os.utime(path, (an_hour_ago, an_hour_ago))
    assert not health(run).is_suspended
    assert health(run).silent_seconds > 3000
