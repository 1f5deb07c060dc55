"""Who belongs to an attempt, and nobody else is signalled: backend/manager/attempt_processes.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from backend.manager.attempt_processes import TOKEN, ask_to_end, kill_all, members
from backend.reports import Attempt
from backend.utils.process_utils import identify
from tests.eventually import eventually

ATTEMPT = Attempt(1, "now", ("a",), token="0123456789abcdef")
Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    children: list[subprocess.Popen[bytes]] = []

    def start(token: str = "", program: str = "import time; time.sleep(60)") -> subprocess.Popen[bytes]:
        environ = {**os.environ, TOKEN: token}
        children.append(
            subprocess.Popen([sys.executable, "-c", program], env=environ, start_new_session=True)
        )
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()


def test_the_recorded_process_and_whoever_carries_the_token(spawn: Spawn) -> None:
    trainer, helper, stranger = spawn(ATTEMPT.token), spawn(ATTEMPT.token), spawn("another token")
    attempt = replace(ATTEMPT, process=identify(trainer.pid))
    pids = eventually(lambda: [one.pid for one in members(attempt)] if len(members(attempt)) == 2 else None)
    assert sorted(pids) == sorted([trainer.pid, helper.pid])
    assert stranger.pid not in pids


def test_an_attempt_without_a_token_is_its_process_alone(spawn: Spawn) -> None:
    trainer, _ = spawn(), spawn()
    attempt = Attempt(1, "now", ("a",), process=identify(trainer.pid))
    assert [one.pid for one in members(attempt)] == [trainer.pid]


def test_killing_takes_all_of_them_and_no_other(spawn: Spawn) -> None:
    trainer, helper, stranger = spawn(ATTEMPT.token), spawn(ATTEMPT.token), spawn("another token")
    attempt = replace(ATTEMPT, process=identify(trainer.pid))
    eventually(lambda: len(members(attempt)) == 2)
    assert kill_all(attempt) == 2
    assert trainer.wait() == helper.wait() == -signal.SIGKILL
    assert stranger.poll() is None
    assert kill_all(attempt) == 0


def test_asking_reaches_the_trainer_alone(spawn: Spawn) -> None:
    trainer, helper = spawn(ATTEMPT.token), spawn(ATTEMPT.token)
    attempt = replace(ATTEMPT, process=identify(trainer.pid))
    assert ask_to_end(attempt)
    assert trainer.wait() == -signal.SIGTERM
    assert helper.poll() is None
    assert not ask_to_end(attempt)
    assert not ask_to_end(ATTEMPT)


def test_f09_f10_w08_a_process_that_only_looks_alike_is_left_alone(spawn: Spawn) -> None:
    innocent = spawn()
    identity = identify(innocent.pid)
    for stranger in (replace(identity, start_ticks=5), replace(identity, boot_id="before")):
        attempt = replace(ATTEMPT, process=stranger)
        assert members(attempt) == []
        assert not ask_to_end(attempt)
        assert kill_all(attempt) == 0
    assert innocent.poll() is None
