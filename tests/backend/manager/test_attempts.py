"""Attempts: their processes, which alone are signalled, stop requests, and ends: backend/manager/attempts.py."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from backend.manager import attempts
from backend.manager.attempts import (
    AttemptEvidence,
    Escalation,
    Policy,
    ask_to_end,
    detail_of,
    is_supervised,
    kernel_oom_kills,
    kill_all,
    members,
    reason_of,
)
from backend.run.folder import RunDir
from backend.run.handover import Handover
from backend.run.pace import Patience
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


# --- a stop request ---

ATTEMPT = Attempt(1, "now", ("a",))
Calls = Callable[..., list[str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Ticks an escalation at the given seconds and returns whom it signalled how."""

    def tick(pressure: Escalation, *seconds: float, at_once: bool = False) -> list[str]:
        sent: list[str] = []
        clock = iter(seconds)
        monkeypatch.setattr(attempts, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        monkeypatch.setattr(attempts, "ask_to_end", lambda *_: sent.append("term"))
        monkeypatch.setattr(attempts, "kill_all", lambda *_: sent.append("kill"))
        for _ in seconds:
            pressure.tick(at_once=at_once)
        return sent

    return tick


def test_escalation_asks_once_then_kills(run: RunDir, calls: Calls) -> None:
    pressure = Escalation(run, ATTEMPT, Policy(term_seconds=2, grace_seconds=10))
    assert calls(pressure, 100.0, 101.0, 102.5, 103.0, 111.0) == ["term", "kill"]
    assert pressure.forced


def test_nothing_happens_at_once(run: RunDir, calls: Calls) -> None:
    pressure = Escalation(run, ATTEMPT, Policy())
    assert (calls(pressure, 0.0), pressure.forced) == ([], False)


def test_without_a_written_request_the_trainer_is_told_at_once(run: RunDir, calls: Calls) -> None:
    assert calls(Escalation(run, ATTEMPT, Policy()), 0.0, 0.1, at_once=True) == ["term"]


def test_the_grace_is_that_of_the_run_s_own_steps(
    run: RunDir, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "patience", lambda *_: Patience(180.0, "its steps take up to 45 s"))
    assert calls(Escalation(run, ATTEMPT, Policy()), 0.0, 31.0, 179.0, 181.0) == ["term", "kill"]


@pytest.mark.parametrize(("wait", "sent"), [(5.0, ["term", "kill"]), (500.0, ["term"])])
def test_the_grace_is_what_the_request_says(run: RunDir, calls: Calls, wait: float, sent: list[str]) -> None:
    run.request_stop(wait_seconds=wait)
    pressure = Escalation(run, ATTEMPT, Policy(grace_seconds=10))
    assert calls(pressure, 0.0, 20.0) == sent


def test_a_later_request_may_give_more_time(run: RunDir, calls: Calls) -> None:
    run.request_stop(wait_seconds=5)
    pressure = Escalation(run, ATTEMPT, Policy())
    calls(pressure, 0.0, 4.0)
    run.request_stop(wait_seconds=50)
    assert calls(pressure, 20.0) == []


# --- the end ---

ROOMY = 10**12


def evidence(
    code: int,
    *,
    outcome: bool = False,
    forced: bool = False,
    early: bool = False,
    at_once: bool = False,
    ooms: int = 0,
    free: int = ROOMY,
) -> AttemptEvidence:
    return AttemptEvidence(code, outcome, forced, early, at_once, ooms, free)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (evidence(0, outcome=True), "exited"),
        (evidence(1, outcome=True), "exited"),
        (evidence(-signal.SIGKILL, outcome=True), "exited"),
        (evidence(0), "no-outcome"),
        (evidence(1), "error"),
        (evidence(1, free=1000), "disk-full"),
        (evidence(-signal.SIGKILL), "killed"),
        (evidence(-signal.SIGKILL, ooms=1), "out-of-memory"),
        (evidence(-signal.SIGKILL, forced=True, ooms=1), "stop-forced"),
        (evidence(-signal.SIGKILL, at_once=True, forced=True), "ended-at-once"),
        (evidence(-signal.SIGSEGV, at_once=True), "crashed"),
        (evidence(-signal.SIGTERM), "terminated"),
        (evidence(-signal.SIGINT, ooms=1), "terminated"),
        (evidence(-signal.SIGTERM, early=True), "stopped"),
        (evidence(-signal.SIGKILL, early=True, forced=True), "stopped"),
        (evidence(-signal.SIGTERM, early=True, outcome=True), "exited"),
        (evidence(-signal.SIGSEGV, early=True), "crashed"),
        (evidence(1, early=True), "error"),
        (evidence(-signal.SIGSEGV), "crashed"),
        (evidence(-signal.SIGABRT), "crashed"),
        (evidence(-signal.SIGBUS), "crashed"),
    ],
)
def test_f24_f25_the_evidence_decides(seen: AttemptEvidence, reason: str) -> None:
    assert reason_of(seen) == reason


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (evidence(1), False),
        (evidence(1, free=1000), True),
        (evidence(-signal.SIGKILL, free=1000), True),
        (evidence(1, free=1000, outcome=True), False),
    ],
)
def test_f14_a_full_disk_is_named_with_place_and_bytes(seen: AttemptEvidence, told: bool) -> None:
    said = detail_of(seen, Path("/runs/food"))
    assert ("/runs/food had 1,000 bytes left" in said) is told


def test_the_kernel_counts_its_kills(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("pgfault 5\noom_kill 3\noom_kill_x 9\n")
    assert kernel_oom_kills(tmp_path / "vmstat") == 3
    (tmp_path / "vmstat").write_text("pgfault 5\n")
    assert kernel_oom_kills(tmp_path / "vmstat") == 0
    assert kernel_oom_kills(tmp_path / "missing") == 0
    assert kernel_oom_kills() >= 0
