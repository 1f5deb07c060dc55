"""How long a run may go without a word, and whether it does: backend/run/pace.py."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.run.environment import Environment
from backend.run.folder import RunDir
from backend.run.pace import (
    LEAST_SECONDS,
    LONGEST_SECONDS,
    RESPONDING,
    UNMEASURED_SECONDS,
    Health,
    health,
    patience,
)
from backend.run.reports import Attempt
from backend.utils.process_utils import identify
from tests.eventually import eventually

TRAIN: dict[str, Any] = {"kind": "train", "step": 5, "total_steps": 100}
EVAL: dict[str, Any] = {"kind": "eval", "step": 5}
WORKER = Attempt(1, "now", ("a",))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run whose latest attempt has begun to train, with a checkpoint of 40 MB, which takes 2 s to save."""
    made = RunDir.create(tmp_path, "tiny", "seed: 1")
    made.write_environment(Environment())
    made.checkpoint(5).mkdir(parents=True)
    with (made.checkpoint(5) / "weights").open("wb") as stream:
        stream.truncate(40_000_000)
    return made


@pytest.fixture
def frozen() -> Iterator[Attempt]:
    """An attempt whose process was stopped by a signal."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"]
    )
    eventually(lambda: Path(f"/proc/{child.pid}/stat").read_text().split()[2] == "T")
    yield Attempt(1, "now", ("a",), process=identify(child.pid))
    child.kill()
    child.wait()


def reported(run: RunDir, *records: dict[str, Any]) -> RunDir:
    with run.metrics_writer() as writer:
        for record in records:
            writer.append(record)
    return run


@pytest.mark.parametrize(
    ("records", "seconds"),
    [
        ([TRAIN | {"seconds": 0.01}], LEAST_SECONDS),
        ([TRAIN | {"seconds": 45.0}], 4 * 45 + 2),
        ([TRAIN | {"seconds": 45.0}, TRAIN | {"seconds": 1.0}], 4 * 45 + 2),
        ([TRAIN | {"seconds": 10.0}, EVAL | {"seconds": 100.0}], 4 * 10 + 2 * 100 + 2),
        ([TRAIN | {"seconds": 1e9}], LONGEST_SECONDS),
        ([TRAIN | {"seconds": "many"}, TRAIN | {"seconds": -5.0}, TRAIN | {"seconds": 20.0}], 4 * 20 + 2),
        ([TRAIN | {"seconds": 1.0, "step": 100}], UNMEASURED_SECONDS + 4),
        ([], UNMEASURED_SECONDS),
        ([EVAL | {"seconds": 50.0}], UNMEASURED_SECONDS + 4 * 50),
    ],
)
def test_patience_goes_by_the_run_s_own_times(
    run: RunDir, records: list[dict[str, Any]], seconds: float
) -> None:
    assert patience(reported(run, *records), WORKER).seconds == pytest.approx(seconds)


def test_the_first_step_after_a_start_is_not_timed_yet(tmp_path: Path) -> None:
    run = reported(RunDir.create(tmp_path, "tiny", "seed: 1"), TRAIN | {"seconds": 2.0})
    run.write_environment(Environment())
    an_hour_ago = time.time() - 3600
    os.utime(run.metrics_file, (an_hour_ago, an_hour_ago))
    assert patience(run, WORKER).seconds == UNMEASURED_SECONDS + 8


def test_a_first_checkpoint_may_take_its_time(run: RunDir) -> None:
    (run.checkpoint(5) / "weights").unlink()
    run.checkpoint(5).rmdir()
    assert patience(reported(run, TRAIN | {"seconds": 1.0}), WORKER).seconds == UNMEASURED_SECONDS / 5 + 4


def test_nobody_waits_long_for_a_suspended_process(run: RunDir, frozen: Attempt) -> None:
    reported(run, TRAIN | {"seconds": 45.0})
    assert patience(run, frozen).seconds == LEAST_SECONDS
    assert "suspended" in patience(run, frozen).why


def silent_for(run: RunDir, seconds: float) -> RunDir:
    then = time.time() - seconds
    for path in (run.metrics_file, run.environment, run.checkpoints, run.train_log):
        path.touch()
        os.utime(path, (then, then))
    return run


@pytest.mark.parametrize(
    ("step_seconds", "silent_seconds", "responds"),
    [(1.0, 500, True), (1.0, 3600, False), (1000.0, 3600, True), (1000.0, 5000, False)],
)
def test_f06_silence_is_what_the_steps_do_not_explain(
    run: RunDir, step_seconds: float, silent_seconds: float, responds: bool
) -> None:
    silent_for(reported(run, TRAIN | {"seconds": step_seconds}), silent_seconds)
    assert health(run, WORKER).is_responding is responds


def test_the_latest_sign_counts(run: RunDir) -> None:
    silent_for(run, 3600)
    run.train_log.write_text("a word")
    assert health(run, WORKER).is_responding


def test_f33_a_clock_that_went_back_is_no_silence(run: RunDir) -> None:
    silent_for(run, -86400)
    assert health(run, WORKER) == Health(0.0, False)


def test_a_run_without_signs_is_not_silent(tmp_path: Path) -> None:
    assert health(RunDir.create(tmp_path, "tiny", "seed: 1"), None) == RESPONDING


def test_f06_a_suspended_trainer_is_seen(run: RunDir, frozen: Attempt) -> None:
    assert health(run, frozen).is_suspended
    assert not health(run, frozen).is_responding
