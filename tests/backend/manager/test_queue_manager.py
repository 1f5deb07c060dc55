"""Which queued run starts next: backend/manager/queue_manager.py."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import ModelError, RunError
from backend.manager import process_manager, queue_manager
from backend.manager.queue_manager import QueueManager
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from backend.utils.lock_utils import LockedError, hold_lock, is_locked
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


@pytest.mark.parametrize(
    "act",
    [
        lambda queue, run: queue.enqueue(run),
        lambda queue, _: queue.change(order(queue)[0], hold=True),
        lambda queue, _: queue.set_slots("default", 2),
        lambda queue, _: queue.schedule(),
    ],
    ids=["enqueue", "change", "set_slots", "schedule"],
)
def test_whoever_moves_the_queue_waits_for_another_who_does(
    queue: QueueManager,
    root: Path,
    starter: Starter,
    runs: list[RunDir],
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[QueueManager, RunDir], object],
) -> None:
    queue.enqueue(runs[0])
    before = queue.waiting()
    monkeypatch.setattr(queue_manager, "_PATIENCE_SECONDS", 0)
    with hold_lock(root / ".queue.lock"), pytest.raises(LockedError):
        act(queue, runs[1])
    assert (queue.waiting(), queue.slots(), starter.started) == (before, {"default": 1}, [])


@pytest.mark.slow
def test_whoever_ends_a_run_starts_the_next(root: Path) -> None:
    """The first run's supervisor starts the second with the real trainer, which is ended as it comes up."""
    first, second = (RunDir.create(root, name, "seed: 1") for name in ("first", "second"))
    process_manager.start(first, command=stand_in(first, "steps=5"))
    QueueManager(root).enqueue(second)
    process_manager.wait(first, timeout_seconds=20)
    attempt = eventually(lambda: second.is_held() and second.latest_attempt())
    assert attempt.command == process_manager.trainer_command(second)
    assert process_manager.kill(second).status is RunStatus.STOPPED


class TestPastWhateverBlocksTheHead:
    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.EMFILE, "Too many open files"),
            PermissionError(errno.EACCES, "Permission denied"),
            OSError(errno.EROFS, "Read-only file system"),
            ModelError("The model is gone.", remedy="Fetch it.", code="no-such-model"),
        ],
    )
    def test_it_is_held_with_the_reason_and_the_next_one_starts(
        self, root: Path, runs: list[RunDir], starter: Starter, error: Exception
    ) -> None:
        def start(run: RunDir) -> None:
            if run == runs[0]:
                raise error
            starter(run)

        queue = QueueManager(root, start)
        for run in runs:
            queue.enqueue(run)
        assert queue.schedule() == [runs[1]]
        ticket = runs[0].read_ticket()
        assert ticket is not None
        assert (ticket.hold, ticket.note) == (True, str(error))
        starter.end(runs[1])

    def test_one_whose_ticket_cannot_be_written_holds_up_nobody(
        self, root: Path, runs: list[RunDir], starter: Starter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue = QueueManager(root, Starter(refuse=runs[0].id))
        queue.enqueue(runs[0])
        monkeypatch.setattr(RunDir, "write_ticket", _refuse)
        assert queue.schedule() == []
        assert runs[0].status() is RunStatus.QUEUED

    @pytest.mark.slow
    def test_a_real_start_that_the_folder_refuses(
        self, root: Path, runs: list[RunDir], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(process_manager, "trainer_command", lambda run: stand_in(run, "steps=1"))
        queue = QueueManager(root)
        for run in runs[:2]:
            queue.enqueue(run)
        runs[0].supervisor_log.symlink_to("/nonexistent/x")
        assert queue.schedule() == [runs[1]]
        assert "could not be started" in runs[0].state().message
        process_manager.wait(runs[1], timeout_seconds=20)

    def test_a_live_run_with_a_damaged_record_takes_a_slot(
        self, queue: QueueManager, runs: list[RunDir], starter: Starter
    ) -> None:
        starter(runs[0])
        runs[0].attempt_file(1).write_text("{")
        queue.enqueue(runs[1])
        assert queue.schedule() == []
        starter.end(runs[0])
        assert queue.schedule() == [runs[1]]
        starter.end(runs[1])


class TestDevices:
    def test_one_without_slots_is_refused_with_what_was_meant(
        self, queue: QueueManager, runs: list[RunDir]
    ) -> None:
        queue.set_slots("cuda:0", 1)
        with pytest.raises(RunError, match="'cuda0'") as caught:
            queue.enqueue(runs[0], device="cuda0")
        assert caught.value.code == "no-such-device"
        assert "Did you mean cuda:0?" in caught.value.remedy
        assert runs[0].status() is RunStatus.CREATED

    def test_a_device_that_lost_its_slots_is_told_on_the_ticket(
        self, queue: QueueManager, runs: list[RunDir], root: Path
    ) -> None:
        queue.set_slots("gpu", 1)
        queue.enqueue(runs[0], device="gpu")
        (root / "queue.json").unlink()
        assert queue.schedule() == []
        assert "no slots" in runs[0].state().message
        assert runs[0].state().reason == "waiting"


class TestARunThatIsGone:
    @pytest.fixture
    def lost(self, runs: list[RunDir]) -> RunDir:
        shutil.rmtree(runs[0].path)
        return runs[0]

    @pytest.mark.parametrize(
        "ask",
        [
            lambda queue, run: queue.enqueue(run),
            lambda queue, run: queue.leave(run),
            lambda queue, run: queue.change(run, priority=1),
            lambda _, run: process_manager.start(run),
        ],
        ids=["enqueue", "leave", "change", "start"],
    )
    def test_is_an_error_that_a_person_can_read(
        self, queue: QueueManager, lost: RunDir, ask: Callable[[QueueManager, RunDir], object]
    ) -> None:
        with pytest.raises(RunError, match="gone or being deleted") as caught:
            ask(queue, lost)
        assert caught.value.code == "no-such-run"

    def test_deleted_while_it_is_put_in(
        self, queue: QueueManager, runs: list[RunDir], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def vanish() -> list[object]:
            shutil.rmtree(runs[0].path)
            return []

        monkeypatch.setattr(queue, "waiting", vanish)
        with pytest.raises(RunError, match="gone or being deleted"):
            queue.enqueue(runs[0])


def _refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


class TestUnderOneLock:
    """Whatever changes the queue does so under its lock: without it two doors at once would lose a change."""

    @pytest.mark.parametrize(
        ("deed", "writes"),
        [
            (lambda queue, runs: queue.enqueue(runs[2]), "backend.run.folder.write_json_durably"),
            (
                lambda queue, runs: queue.change(runs[1], before=runs[0]),
                "backend.run.folder.write_json_durably",
            ),
            (
                lambda queue, _: queue.set_slots("gpu", 2),
                "backend.manager.queue_manager.write_json_durably",
            ),
        ],
        ids=["enqueue", "move", "slots"],
    )
    def test_every_write(
        self,
        root: Path,
        queue: QueueManager,
        runs: list[RunDir],
        monkeypatch: pytest.MonkeyPatch,
        deed: Callable[[QueueManager, list[RunDir]], object],
        writes: str,
    ) -> None:
        for run in runs[:2]:
            queue.enqueue(run)
        locked: list[bool] = []
        monkeypatch.setattr(writes, lambda *_: locked.append(is_locked(root / ".queue.lock")))
        deed(queue, runs)
        assert locked == [True]

    def test_every_start(self, root: Path, runs: list[RunDir]) -> None:
        locked: list[bool] = []
        queue = QueueManager(root, lambda _: locked.append(is_locked(root / ".queue.lock")))
        queue.enqueue(runs[0])
        queue.schedule()
        assert locked == [True]


def test_the_note_of_a_held_run_stays_until_it_is_released(queue: QueueManager, runs: list[RunDir]) -> None:
    ticket = queue.enqueue(runs[0])
    runs[0].write_ticket(replace(ticket, hold=True, note="The disk is full."))
    assert queue.change(runs[0], hold=True).note == "The disk is full."
    assert queue.change(runs[0], priority=3).note == "The disk is full."
    assert queue.change(runs[0], hold=False).note == ""
