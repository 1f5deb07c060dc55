"""F07, F04: whoever started a run dies with the terminal; another shell sees the run as it is, and ends all of it.

That a studio dies is tested with the browser.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from backend.commands.cli import main
from backend.errors import RunError
from backend.manager import process_manager
from backend.manager.attempts import members
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from tests.eventually import eventually
from tests.faults.conftest import MakeRun, losses
from tests.runs import child_environment

TUNESMITH = (sys.executable, "-m", "backend.commands.cli")
GRACE_SECONDS = 30.0


def terminal(*commands: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """A shell in a session of its own that runs one command of ours after the other."""
    lines = " && ".join(" ".join([*TUNESMITH, *words]) for words in commands)
    return subprocess.Popen(
        ["/bin/sh", "-c", lines], env=child_environment(), start_new_session=True, stdout=subprocess.DEVNULL
    )


@pytest.fixture
def run(make_run: MakeRun, tmp_path: Path) -> Iterator[RunDir]:
    """A run that goes on until somebody ends it."""
    run = make_run(tmp_path / "runs", max_steps=100_000)
    yield run
    with contextlib.suppress(RunError):
        process_manager.kill(run)


def test_f07_a_run_outlives_its_terminal_and_is_seen_and_ended_from_another(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    first = terminal(
        ("runs", "resume", str(run.path), "--detach"), ("runs", "watch", str(run.path), "--interval=0.1")
    )
    eventually(lambda: len(run.metrics().records) >= 3, timeout_seconds=120)
    os.killpg(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    reached = len(run.metrics().records)

    def seen() -> dict[str, Any]:
        assert main(["runs", "watch", str(run.path), "--json"]) == 0
        shown: dict[str, Any] = json.loads(capsys.readouterr().out)
        return shown if shown["step"] > reached else {}

    shown = eventually(seen, timeout_seconds=2)
    curve = shown["loss_curve"]
    assert (shown["status"], shown["attempt"], shown["total_steps"]) == ("running", 1, 100_000)
    assert (curve["steps"][0], curve["steps"][-1]) == (1, shown["step"])
    assert set(zip(curve["steps"], curve["values"], strict=True)) <= set(losses(run))
    assert "Training from step 0 to 100000 on 24 rows" in shown["log"][-1]

    attempt = run.latest_attempt()
    assert attempt is not None
    assert attempt.supervisor is not None
    family = [attempt.supervisor, *members(run, attempt)]
    stopped = subprocess.run(
        [*TUNESMITH, "runs", "stop", str(run.path), "--json"],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=GRACE_SECONDS,
    )
    assert json.loads(stopped.stdout)["status"] == "stopped"
    outcome = run.read_outcome()
    assert outcome is not None
    assert run.status() is RunStatus.STOPPED
    assert run.newest_checkpoint_step() == outcome.step == losses(run)[-1][0]
    assert len(family) >= 2
    eventually(lambda: members(run, attempt) == [] and not any(psutil.pid_exists(one.pid) for one in family))
