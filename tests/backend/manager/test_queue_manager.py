"""Which queued run starts next: backend/manager/queue_manager.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.errors import RunError
from backend.manager import process_manager
from backend.manager.queue_manager import QueueManager
from backend.reports import RunStatus
from backend.run_dir import RunDir
from tests.backend.manager.conftest import stand_in
from tests.eventually import eventually


class Starter:
    """Starts a run by holding its lock, as a supervisor would."""

    def __init__(self, *, refuse: str = "") -> None:
        self.started: list[str] = []
        self._refuse = refuse
        self._held: dict[str, object] = {}

    def __call__(self, run: RunDir) -> None:
        if run.id == self._refuse:
            raise RunError("The disk is full.", remedy="Make room.", code="disk-low")
        lock = run.lock()
        lock.__enter__()
        run.begin_attempt(("a",))
        self._held[run.id] = lock
        self.started.append(run.id)

    def end(self, run: RunDir) -> None:
        lock = self._held.pop(run.id)
        lock.__exit__(None, None, None)  # type: ignore[attr-defined]


@pytest.fixture
def starter() -> Starter:
    return Starter()


@pytest.fixture
def queue(root: Path, starter: Starter) -> QueueManager:
    return QueueManager(root, starter)


@pytest.fixture
def runs(root: Path) -> list[RunDir]:
    return [RunDir.create(root, f"run{number}", "seed: 1") for number in range(3)]


def order(queue: QueueManager) -> list[RunDir]:
    return [run for run, _ in queue.waiting()]


class TestOrder:
    def test_first_come_first_served(self, queue: QueueManager, runs: list[RunDir]) -> None:
        for run in reversed(runs):
            queue.enqueue(run)
        assert order(queue) == runs[::-1]
        assert all(run.status() is RunStatus.QUEUED for run in runs)

    def test_priority_goes_before(self, queue: QueueManager, runs: list[RunDir]) -> None:
        for run, priority in zip(runs, [0, 5, 5], strict=True):
            queue.enqueue(run, priority=priority)
        assert order(queue) == [runs[1], runs[2], runs[0]]
        queue.change(runs[0], priority=9)
        assert order(queue)[0] == runs[0]

    @pytest.mark.parametrize(
        ("moved", "before", "expected"), [(2, 0, [2, 0, 1]), (2, 1, [0, 2, 1]), (0, 2, [1, 0, 2])]
    )
    def test_moving(
        self, queue: QueueManager, runs: list[RunDir], moved: int, before: int, expected: list[int]
    ) -> None:
        for run in runs:
            queue.enqueue(run)
        queue.change(runs[moved], before=runs[before])
        assert order(queue) == [runs[index] for index in expected]

    def test_leaving_goes_back_to_what_it_was(self, queue: QueueManager, runs: list[RunDir]) -> None:
        runs[0].begin_attempt(("a",))
        queue.enqueue(runs[0])
        queue.leave(runs[0])
        assert runs[0].status() is RunStatus.INTERRUPTED
        assert queue.waiting() == []

    def test_it_survives_everybody_who_knew_it(
        self, queue: QueueManager, root: Path, runs: list[RunDir]
    ) -> None:
        for run in runs:
            queue.enqueue(run)
        assert order(QueueManager(root)) == runs


class TestRefusals:
    def test_twice(self, queue: QueueManager, runs: list[RunDir]) -> None:
        queue.enqueue(runs[0])
        with pytest.raises(RunError, match="is queued, so it cannot queue"):
            queue.enqueue(runs[0])

    def test_while_it_runs(self, queue: QueueManager, runs: list[RunDir]) -> None:
        with runs[0].lock(), pytest.raises(RunError, match="so it cannot queue"):
            queue.enqueue(runs[0])

    def test_what_does_not_wait(self, queue: QueueManager, runs: list[RunDir]) -> None:
        queue.enqueue(runs[0])
        with pytest.raises(RunError, match="so it cannot unqueue"):
            queue.leave(runs[1])
        with pytest.raises(RunError, match="so it cannot unqueue"):
            queue.change(runs[1], hold=True)
        with pytest.raises(RunError, match="not in the queue"):
            queue.change(runs[0], before=runs[1])

    def test_negative_slots(self, queue: QueueManager) -> None:
        with pytest.raises(RunError, match="-1 slots"):
            queue.set_slots("default", -1)


class TestScheduling:
    def test_one_slot_one_run(self, queue: QueueManager, starter: Starter, runs: list[RunDir]) -> None:
        for run in runs:
            queue.enqueue(run)
        assert queue.schedule() == [runs[0]]
        assert queue.schedule() == []
        starter.end(runs[0])
        assert queue.schedule() == [runs[1]]
        starter.end(runs[1])

    def test_more_slots_and_other_devices(
        self, queue: QueueManager, starter: Starter, runs: list[RunDir]
    ) -> None:
        queue.set_slots("cuda:0", 2)
        queue.set_slots("cuda:1", 0)
        for run, device in zip(runs, ["cuda:0", "cuda:1", "cuda:0"], strict=True):
            queue.enqueue(run, device=device)
        assert queue.schedule() == [runs[0], runs[2]]
        assert runs[0].read_attempt(1).device == "cuda:0"
        assert queue.slots() == {"default": 1, "cuda:0": 2, "cuda:1": 0}
        starter.end(runs[0])
        starter.end(runs[2])

    def test_a_run_started_by_hand_takes_a_slot(self, queue: QueueManager, runs: list[RunDir]) -> None:
        queue.enqueue(runs[0])
        with runs[1].lock():
            assert queue.schedule() == []

    def test_held_runs_wait(self, queue: QueueManager, starter: Starter, runs: list[RunDir]) -> None:
        queue.enqueue(runs[0], hold=True)
        queue.enqueue(runs[1])
        assert runs[0].state().reason == "held"
        assert queue.schedule() == [runs[1]]
        starter.end(runs[1])
        queue.change(runs[0], hold=False)
        assert queue.schedule() == [runs[0]]
        starter.end(runs[0])

    def test_what_cannot_start_is_held_with_its_reason(self, root: Path, runs: list[RunDir]) -> None:
        starter = Starter(refuse=runs[0].id)
        queue = QueueManager(root, starter)
        for run in runs:
            queue.enqueue(run)
        assert queue.schedule() == [runs[1]]
        assert "The disk is full." in runs[0].state().message
        assert runs[0].state().reason == "held"
        starter.end(runs[1])

    def test_an_empty_queue_needs_nothing(self, queue: QueueManager, root: Path) -> None:
        assert queue.schedule() == []
        assert list(root.iterdir()) == []

    def test_damaged_slots_are_the_default(self, queue: QueueManager, root: Path) -> None:
        (root / "queue.json").write_text('{"default": "many"')
        assert queue.slots() == {"default": 1}

    def test_eight_schedulers_start_each_run_once(
        self, root: Path, starter: Starter, runs: list[RunDir]
    ) -> None:
        queue = QueueManager(root, starter)
        queue.set_slots("default", 2)
        for run in runs:
            queue.enqueue(run)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: QueueManager(root, starter).schedule(), range(8)))
        assert sorted(starter.started) == [runs[0].id, runs[1].id]
        for run in runs[:2]:
            starter.end(run)


def test_whoever_ends_a_run_starts_the_next(root: Path) -> None:
    """The first run's supervisor starts the second with the real trainer, which is ended as it comes up."""
    first, second = (RunDir.create(root, name, "seed: 1") for name in ("first", "second"))
    process_manager.start(first, command=stand_in(first, "steps=5"))
    QueueManager(root).enqueue(second)
    process_manager.wait(first, timeout_seconds=20)
    attempt = eventually(lambda: second.is_held() and second.latest_attempt())
    assert attempt.command == process_manager.trainer_command(second)
    assert process_manager.kill(second).status is RunStatus.STOPPED
