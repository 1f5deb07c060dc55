"""The queue moves while nobody looks: backend/manager/queue_watch.py."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import Mock, create_autospec

import pytest

from backend.manager import process_manager, queue_watch
from backend.manager.queue_manager import QueueManager
from backend.manager.queue_watch import main, move_on, watch
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from backend.utils.lock_utils import hold_lock
from backend.utils.process_utils import send_signal
from tests.backend.manager.conftest import stand_in
from tests.eventually import eventually


@pytest.fixture
def runs(root: Path) -> list[RunDir]:
    return [RunDir.create(root, f"run{number}", "seed: 1") for number in range(2)]


@pytest.fixture
def held(runs: list[RunDir]) -> Iterator[ExitStack]:
    """The first run is at work until this is closed; the second one waits for its slot."""
    with ExitStack() as stack:
        stack.enter_context(runs[0].lock())
        QueueManager(runs[0].path.parent).enqueue(runs[1])
        yield stack


@pytest.fixture
def spawn(monkeypatch: pytest.MonkeyPatch) -> Mock:
    fake = create_autospec(queue_watch.spawn_detached)
    monkeypatch.setattr(queue_watch, "spawn_detached", fake)
    return fake


class TestWhoWatches:
    def test_a_process_does_where_a_run_waits_for_a_slot(
        self, root: Path, held: ExitStack, spawn: Mock
    ) -> None:
        assert move_on(QueueManager(root)) == []
        (command,), _ = spawn.call_args
        assert list(command) == [sys.executable, "-P", "-m", "backend.manager.queue_watch", str(root)]

    def test_one_is_enough(self, root: Path, held: ExitStack, spawn: Mock) -> None:
        with hold_lock(root / ".queue-watch.lock"):
            move_on(QueueManager(root))
        spawn.assert_not_called()

    @pytest.mark.parametrize(("hold", "slots"), [(True, 1), (False, 0)])
    def test_nobody_does_where_none_will_have_a_turn(
        self, root: Path, runs: list[RunDir], spawn: Mock, hold: bool, slots: int
    ) -> None:
        queue = QueueManager(root)
        queue.set_slots("default", slots)
        queue.enqueue(runs[0], hold=hold)
        move_on(queue)
        spawn.assert_not_called()
        assert main([str(root)]) == 0

    def test_a_second_one_leaves_at_once(self, root: Path, held: ExitStack) -> None:
        with hold_lock(root / ".queue-watch.lock"):
            assert main([str(root)]) == 0

    def test_a_folder_that_is_gone_is_left(self, tmp_path: Path) -> None:
        assert main([str(tmp_path / "missing")]) == 0


def test_it_starts_the_next_when_one_ends_and_leaves(root: Path, runs: list[RunDir], held: ExitStack) -> None:
    started: list[RunDir] = []

    def start(run: RunDir) -> None:
        started.append(run)
        run.drop_ticket()

    queue = QueueManager(root, start)
    assert queue.schedule() == []
    held.close()
    watch(queue, look_seconds=0.01)
    assert started == [runs[1]]


def test_a_run_that_ends_while_the_queue_is_looked_at_does_not_cost_the_longest_wait(
    root: Path, held: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = iter(range(5))
    monkeypatch.setattr(queue_watch.time, "sleep", lambda _: next(waits))
    queue = QueueManager(root, RunDir.drop_ticket)
    look = queue.schedule

    def and_then_it_ends() -> list[RunDir]:
        started = look()
        held.close()
        return started

    monkeypatch.setattr(queue, "schedule", and_then_it_ends)
    watch(queue)
    assert queue.waiting() == []


@pytest.mark.slow
def test_b2_killed_supervisor_and_trainer_do_not_stop_the_queue(
    root: Path, runs: list[RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    process_manager.start(runs[0], command=stand_in(runs[0], "steps=100000", "pause=0.02"))
    queue = QueueManager(root)
    queue.enqueue(runs[1])
    attempt = runs[0].latest_attempt()
    assert move_on(queue) == []
    eventually((root / ".queue-watch.lock").exists)
    assert attempt is not None
    assert attempt.supervisor is not None
    assert attempt.process is not None
    for process in (attempt.supervisor, attempt.process):
        send_signal(process, signal.SIGKILL)
    eventually(lambda: runs[1].latest_attempt_number() == 1, timeout_seconds=20)
    assert process_manager.kill(runs[1]).status is not RunStatus.QUEUED
