"""Who belongs to an attempt, and nobody else is signalled: backend/manager/attempt_processes.py."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from backend.manager.attempt_processes import ask_to_end, is_supervised, kill_all, members
from backend.run.folder import RunDir
from backend.run.handover import Handover
from backend.run.reports import Attempt
from backend.utils.process_utils import identify
from tests.eventually import eventually

TOKEN_VALUE = "0123456789abcdef"
Spawn = Callable[..., "subprocess.Popen[bytes]"]
CATCHES = (
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: exit(7))\n"
    "print('up', flush=True)\n"
    "time.sleep(60)\n"
)


@pytest.fixture
def attempt(run: RunDir) -> Attempt:
    """A supervised attempt that began in the run's folder; its supervisor is this process."""
    return Attempt(1, "now", ("a",), token=TOKEN_VALUE, supervisor=identify(os.getpid()), folder=run.mark)


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    children: list[subprocess.Popen[bytes]] = []

    def start(token: str = "", program: str = "import time; time.sleep(60)") -> subprocess.Popen[bytes]:
        environ = {**os.environ, **Handover(token=token).environ()}
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", program], env=environ, start_new_session=True, stdout=subprocess.PIPE
            )
        )
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def test_the_recorded_process_and_whoever_carries_the_token(
    run: RunDir, attempt: Attempt, spawn: Spawn
) -> None:
    trainer, helper, stranger = spawn(attempt.token), spawn(attempt.token), spawn("another token")
    known = replace(attempt, process=identify(trainer.pid))
    pids = eventually(
        lambda: [one.pid for one in members(run, known)] if len(members(run, known)) == 2 else None
    )
    assert sorted(pids) == sorted([trainer.pid, helper.pid])
    assert stranger.pid not in pids


def test_killing_takes_all_of_them_and_no_other(run: RunDir, attempt: Attempt, spawn: Spawn) -> None:
    trainer, helper, stranger = spawn(attempt.token), spawn(attempt.token), spawn("another token")
    known = replace(attempt, process=identify(trainer.pid))
    eventually(lambda: len(members(run, known)) == 2)
    assert kill_all(run, known) == 2
    assert trainer.wait() == helper.wait() == -signal.SIGKILL
    assert stranger.poll() is None
    assert kill_all(run, known) == 0


def test_asking_reaches_the_trainer_alone(run: RunDir, attempt: Attempt, spawn: Spawn) -> None:
    trainer, helper = spawn(attempt.token), spawn(attempt.token)
    known = replace(attempt, process=identify(trainer.pid))
    assert ask_to_end(run, known)
    assert trainer.wait() == -signal.SIGTERM
    assert helper.poll() is None
    assert not ask_to_end(run, known)
    assert not ask_to_end(run, attempt)


def test_f09_f10_w08_a_process_that_only_looks_alike_is_left_alone(
    run: RunDir, attempt: Attempt, spawn: Spawn
) -> None:
    innocent = spawn()
    identity = identify(innocent.pid)
    for stranger in (replace(identity, start_ticks=5), replace(identity, boot_id="before")):
        known = replace(attempt, process=stranger)
        assert members(run, known) == []
        assert not ask_to_end(run, known)
        assert kill_all(run, known) == 0
    assert innocent.poll() is None


class TestACopiedFolder:
    """The attempt in a copy is that of the original, whose processes are none of the copy's business."""

    def test_its_processes_are_left_alone(self, run: RunDir, attempt: Attempt, spawn: Spawn) -> None:
        trainer, helper = spawn(attempt.token), spawn(attempt.token)
        known = replace(attempt, process=identify(trainer.pid))
        eventually(lambda: len(members(run, known)) == 2)
        copy = RunDir(run.path.with_name("copy"))
        shutil.copytree(run.path, copy.path)
        assert members(copy, known) == []
        assert not ask_to_end(copy, known)
        assert not is_supervised(copy, known)
        assert kill_all(copy, known) == 0
        assert (trainer.poll(), helper.poll()) == (None, None)

    def test_a_copy_in_the_original_s_place_is_still_a_copy(
        self, run: RunDir, attempt: Attempt, spawn: Spawn
    ) -> None:
        known = replace(attempt, process=identify(spawn(attempt.token).pid))
        moved = run.path.rename(run.path.with_name("moved"))
        shutil.copytree(moved, run.path)
        assert members(run, known) == []
        assert len(members(RunDir(moved), known)) == 1

    def test_an_attempt_that_names_no_folder_has_no_processes(
        self, run: RunDir, attempt: Attempt, spawn: Spawn
    ) -> None:
        known = replace(attempt, process=identify(spawn().pid), folder="")
        assert members(run, known) == []
        assert kill_all(RunDir(run.path / "gone"), known) == 0


class TestAPersonsOwnProcess:
    """A run inside a command, script or notebook: whoever ends it loses what else it does."""

    def test_it_is_never_killed(self, run: RunDir, spawn: Spawn) -> None:
        own = spawn()
        attempt = Attempt(1, "now", ("a",), process=identify(own.pid), folder=run.mark)
        assert attempt.is_own_process
        assert members(run, attempt) == []
        assert kill_all(run, attempt) == 0
        assert not ask_to_end(run, attempt)  # it would die of it
        assert own.poll() is None

    def test_it_is_asked_where_it_catches_that(self, run: RunDir, spawn: Spawn) -> None:
        own = spawn(program=CATCHES)
        assert own.stdout is not None
        assert own.stdout.readline() == b"up\n"
        attempt = Attempt(1, "now", ("a",), process=identify(own.pid), folder=run.mark)
        assert ask_to_end(run, attempt)
        assert own.wait() == 7
