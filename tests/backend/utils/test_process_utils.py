"""Who is meant and who may be signalled: backend/utils/process_utils.py, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from backend.utils import process_utils
from backend.utils.process_utils import (
    ProcessIdentity,
    boot_id,
    identify,
    identify_started,
    is_alive,
    send_signal,
)
from tests.eventually import eventually


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield child
    child.kill()
    child.wait()


def test_garbage_is_looked_for_seldom_but_looked_for() -> None:
    program = """
import gc
from backend.utils.process_utils import collect_as_usual, collect_rarely
usual = gc.get_threshold()
collect_rarely()
print(gc.get_threshold()[0], gc.isenabled())
collect_as_usual()
print(gc.get_threshold() == usual, gc.get_freeze_count())
"""
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    threshold, enabled, as_usual, kept = child.stdout.split()
    assert (int(threshold) > 10_000, enabled) == (True, "True")
    assert (as_usual, int(kept) > 1000) == ("True", True)


@pytest.mark.parametrize(("first", "said"), [("", "collected"), ("collect_rarely(); collect_rarely()", "")])
def test_no_garbage_is_looked_for_at_the_end(first: str, said: str) -> None:
    program = f"""
from backend.utils.process_utils import collect_rarely
class Garbage:
    def __del__(self, say=print):
        say("collected")
{first}
garbage = Garbage()
garbage.itself = garbage
"""
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == said


def test_a_living_process_has_an_identity(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identify(sleeper.pid)
    assert identity.pid == sleeper.pid
    assert identity.start_ticks >= identify(os.getpid()).start_ticks
    assert is_alive(identity)


def test_what_was_started_may_have_ended_since(sleeper: subprocess.Popen[bytes]) -> None:
    assert identify_started(sleeper.pid) == identify(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    gone = identify_started(sleeper.pid)
    assert (gone.pid, is_alive(gone)) == (sleeper.pid, False)


def test_f11_a_zombie_is_dead(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identify(sleeper.pid)
    os.kill(sleeper.pid, signal.SIGKILL)
    eventually(lambda: not is_alive(identity))
    with pytest.raises(ProcessLookupError, match="has ended"):
        identify(sleeper.pid)
    assert not send_signal(identity, signal.SIGTERM)


def test_a_waited_for_process_is_gone(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identify(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    assert not is_alive(identity)
    assert not send_signal(identity, signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        identify(sleeper.pid)


def test_a_signal_arrives(sleeper: subprocess.Popen[bytes]) -> None:
    assert send_signal(identify(sleeper.pid), signal.SIGTERM)
    assert sleeper.wait() == -signal.SIGTERM


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another boot"}])
def test_f10_f09_a_stranger_with_the_same_pid_is_never_signalled(
    sleeper: subprocess.Popen[bytes], change: dict[str, Any]
) -> None:
    stranger = replace(identify(sleeper.pid), **change)
    assert not is_alive(stranger)
    assert not send_signal(stranger, signal.SIGKILL)
    assert sleeper.poll() is None


@pytest.mark.parametrize("pid", [0, 1, -1, True, "abc", 2.0, None])
def test_f10_poisoned_pids_are_no_identities(pid: Any) -> None:
    with pytest.raises(ValueError, match="not a usable process id"):
        ProcessIdentity(pid, 1, "boot")


def test_the_boot_is_stable() -> None:
    assert boot_id() == boot_id() != ""


class TestWithoutProc:
    """Where there is no /proc, psutil answers."""

    @pytest.fixture(autouse=True)
    def no_proc(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        monkeypatch.setattr(process_utils, "_PROC", tmp_path)

    def test_identity_and_boot(self, sleeper: subprocess.Popen[bytes]) -> None:
        identity = identify(sleeper.pid)
        assert is_alive(identity)
        assert boot_id().isdigit()
        os.kill(sleeper.pid, signal.SIGKILL)
        eventually(lambda: not is_alive(identity))
        sleeper.wait()
        assert not is_alive(identity)


class TestWithoutPidfd:
    @pytest.fixture(autouse=True)
    def no_pidfd(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "pidfd_open")

    def test_a_signal_arrives_or_is_not_sent(self, sleeper: subprocess.Popen[bytes]) -> None:
        identity = identify(sleeper.pid)
        assert not send_signal(replace(identity, start_ticks=1), signal.SIGKILL)
        assert send_signal(identity, signal.SIGTERM)
        assert sleeper.wait() == -signal.SIGTERM
        assert not send_signal(identity, signal.SIGTERM)
