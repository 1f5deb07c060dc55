"""F01: the real trainer under the real supervisor, killed and gone on with by hand; then the bits are compared."""

from __future__ import annotations

import signal
from pathlib import Path

from backend.manager.process_manager import start, wait
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from backend.training.checkpoint import newest_good
from backend.utils.process_utils import send_signal
from tests.eventually import eventually
from tests.faults.conftest import MakeRun, losses, result_bits
from tests.runs import start_trainer


def kill_at(run: RunDir, step: int) -> None:
    """SIGKILL to the trainer once it has reported ``step``."""
    eventually(lambda: len(run.metrics().records) >= step, timeout_seconds=120)
    attempt = run.latest_attempt()
    assert attempt is not None
    assert attempt.process is not None
    send_signal(attempt.process, signal.SIGKILL)


def test_f01_a_killed_run_ends_with_the_bits_of_the_undisturbed_one(
    make_run: MakeRun, reference: RunDir, tmp_path: Path
) -> None:
    run = make_run(tmp_path, like=reference)
    start(run)
    kill_at(run, 5)
    eventually(lambda: run.status() is RunStatus.INTERRUPTED)
    assert run.state().reason in {"killed", "lost"}
    checkpoint, complaints = newest_good(run.checkpoints)
    assert complaints == []
    assert checkpoint is not None
    assert checkpoint.step >= 4
    wait(run, timeout_seconds=20)
    child = start_trainer(run)
    assert child.communicate(timeout=120) == ("", "Trained 10 steps.\n")
    assert (child.returncode, run.status()) == (0, RunStatus.FINISHED)
    assert run.latest_attempt_number() == 2
    assert result_bits(run) == result_bits(reference)
    assert losses(run) == losses(reference)
