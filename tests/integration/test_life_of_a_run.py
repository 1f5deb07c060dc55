"""The life of runs with real supervisors and real trainers on the tiny model: frozen, copied, orphaned and queued."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.manager import process_manager
from backend.manager.queue_manager import QueueManager
from backend.manager.queue_watch import move_on
from backend.run.folder import RunDir
from backend.run.reports import Attempt, RunStatus
from backend.utils.process_utils import ProcessIdentity, is_alive, send_signal
from tests.eventually import eventually
from tests.runs import LONG, SHORT, learner_folder, lines, make_run, write_rows

PATIENCE_SECONDS = 120.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model; read only."""
    return learner_folder(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows it learns; read only."""
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder for runs; whatever still works in it when the test is over is ended."""
    folder = tmp_path / "runs"
    yield folder
    for run in filter(RunDir.is_held, RunDir.all_under(folder)):
        process_manager.kill(run)


def processes(run: RunDir) -> tuple[ProcessIdentity, ProcessIdentity, Attempt]:
    """The trainer and the supervisor of a run that trains, and its attempt."""
    eventually(lambda: len(lines(run.metrics_file)) >= 2, timeout_seconds=PATIENCE_SECONDS)
    attempt = run.latest_attempt()
    assert attempt is not None
    assert attempt.process is not None
    assert attempt.supervisor is not None
    return attempt.process, attempt.supervisor, attempt


def test_f06_a_frozen_trainer_is_told_with_its_way_out_and_goes_on(
    root: Path, model: Path, rows: Path
) -> None:
    run = make_run(root, model, rows, LONG)
    process_manager.start(run)
    trainer, _, _ = processes(run)
    send_signal(trainer, signal.SIGSTOP)
    state = eventually(lambda: run.state() if run.state().reason == "not-responding" else None)
    assert state.status is RunStatus.RUNNING
    assert f"kill -CONT {trainer.pid}" in state.remedy
    send_signal(trainer, signal.SIGCONT)
    eventually(lambda: run.state().reason == "training")
    assert process_manager.stop(run).status is RunStatus.STOPPED
    assert run.newest_checkpoint_step() > 0


def test_a3_a_copied_folder_is_another_run(root: Path, model: Path, rows: Path) -> None:
    run = make_run(root, model, rows, LONG)
    process_manager.start(run)
    trainer, supervisor, _ = processes(run)
    copy = RunDir(shutil.copytree(run.path, root / "copy"))
    assert copy.status() is RunStatus.INTERRUPTED
    process_manager.start(copy)
    eventually(lambda: copy.state().reason == "training", timeout_seconds=PATIENCE_SECONDS)
    assert process_manager.kill(copy).status is RunStatus.INTERRUPTED
    assert is_alive(trainer)
    assert is_alive(supervisor)
    assert process_manager.stop(run).status is RunStatus.STOPPED


def test_b2_the_queue_moves_on_after_a_killed_supervisor_and_past_a_blocked_head(
    root: Path, model: Path, rows: Path
) -> None:
    first, blocked, last = (make_run(root, model, rows, kind) for kind in (LONG, SHORT, SHORT))
    process_manager.start(first)
    queue = QueueManager(root)
    queue.enqueue(blocked)
    queue.enqueue(last)
    blocked.supervisor_log.symlink_to("/nonexistent/x")
    assert move_on(queue) == []
    trainer, supervisor, _ = processes(first)
    for process in (supervisor, trainer):
        send_signal(process, signal.SIGKILL)
    eventually(lambda: last.status() is RunStatus.FINISHED, timeout_seconds=PATIENCE_SECONDS)
    assert first.state().reason == "lost"
    assert (blocked.state().status, blocked.state().reason) == (RunStatus.QUEUED, "held")
    assert "could not be started" in blocked.state().message
