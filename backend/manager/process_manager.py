"""Start, stop and watch the process of a run. It remembers nothing: the run folder says where a run stands.

Control wing: imports F0 and its neighbours here, never torch.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from backend.errors import RunError
from backend.lifecycle import Event, require
from backend.manager.attempt_processes import kill_all, members
from backend.manager.escalation import Escalation, Policy
from backend.manager.ranks import torchrun_command
from backend.manager.system_manager import forecast_disk
from backend.reports import Attempt, RunState
from backend.run_dir import RunDir
from backend.utils.detach import spawn_detached
from backend.utils.process_utils import is_alive

START_SECONDS = 30.0
POLL_SECONDS = 0.05
_AFTER_GRACE_SECONDS = 5.0
_CODE = Path(__file__).resolve().parents[2]


def trainer_command(run: RunDir) -> tuple[str, ...]:
    """The command that trains a run in one process."""
    return (sys.executable, "-P", "-u", "-m", "backend.trainer_main", str(run.path))


def start(run: RunDir, *, policy: Policy | None = None, command: Sequence[str] | None = None) -> RunState:
    """Start or resume a run in the background; it outlives the caller. Returns once its first attempt has begun.

    Raises RunError: ``already-running``, ``illegal-transition`` (finished), ``damaged-run``, ``disk-low``,
    ``cannot-start``, ``several-machines``.
    """
    _refuse_unless_startable(run)
    reader, writer = os.pipe()
    try:
        spawn_detached(
            _supervisor_command(run, policy or Policy(), command or trainer_command(run), writer),
            log=run.supervisor_log,
            environ=child_environ(),
            pass_fds=(writer,),
        )
        os.close(writer)
        writer = -1
        _await_message(run, reader)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    return run.state()


def _refuse_unless_startable(run: RunDir) -> None:
    state = run.state()
    if state.is_live:
        raise RunError(
            f"The run {run.id} is being worked on already.",
            remedy=f"Watch it with: tunesmith runs watch {run.id}",
            code="already-running",
        )
    by_hand = torchrun_command(run)
    require(run.id, state.status, Event.START)
    if by_hand:
        raise RunError(
            f"The run {run.id} is for several machines, where torchrun starts it.",
            remedy=f"Type on each of them, with the first one's address: {by_hand}",
            code="several-machines",
        )
    forecast = forecast_disk(run)
    if not forecast.is_enough:
        raise RunError(forecast.describe(), remedy="Make room there, then start again.", code="disk-low")


def _supervisor_command(run: RunDir, policy: Policy, command: Sequence[str], ready: int) -> list[str]:
    options = {
        "--restarts": policy.restarts,
        "--backoff": policy.backoff_seconds,
        "--term": policy.term_seconds,
        "--grace": policy.grace_seconds,
        "--ready-fd": ready,
    }
    flags = [f"{name}={value}" for name, value in options.items()]
    return [sys.executable, "-P", "-m", "backend.manager.supervisor", *flags, "--", str(run.path), *command]


def child_environ() -> dict[str, str]:
    """Ours, with our own code first on the path, wherever the caller stands."""
    paths = [str(_CODE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _await_message(run: RunDir, reader: int) -> None:
    """Wait for the supervisor's message. Raises the error that it sends, or one that says it never spoke."""
    answered, _, _ = select.select([reader], [], [], START_SECONDS)
    text = os.read(reader, 65536) if answered else b""
    if not text:
        raise RunError(
            f"The supervisor of {run.id} did not start.",
            remedy=f"Its last words are in {run.supervisor_log}",
            code="cannot-start",
        )
    error = json.loads(text)
    if error:
        raise RunError(error["message"], remedy=error["remedy"], code=error["code"])


def stop(run: RunDir, *, reason: str = "stop-requested", policy: Policy | None = None) -> RunState:
    """Ask a run to save a checkpoint and stop, and see that it does. Deletes nothing. Returns where it stands then.

    The supervisor carries the stop through; without one we do. Raises RunError ``not-running``, or
    ``still-alive`` when even SIGKILL did not end it.
    """
    policy = policy or Policy()
    _refuse_unless_live(run)
    run.request_stop(reason)
    attempt = run.latest_attempt()
    escalation = Escalation(attempt, policy) if attempt and not _is_supervised(attempt) else None
    deadline = time.monotonic() + policy.grace_seconds + _AFTER_GRACE_SECONDS
    while run.is_held() and time.monotonic() < deadline:
        if escalation:
            escalation.tick()
        if not run.stop_requested():  # a holder that has only just begun swept it away
            run.request_stop(reason)
        time.sleep(POLL_SECONDS)
    return kill(run) if run.is_held() else _settled(run, attempt)


def pause(run: RunDir, *, policy: Policy | None = None) -> RunState:
    """A stop that says why: the run is meant to go on later."""
    return stop(run, reason="paused", policy=policy)


def kill(run: RunDir) -> RunState:
    """End a run at once, without a checkpoint. Raises RunError ``not-running`` or ``still-alive``."""
    _refuse_unless_live(run)
    run.request_stop("killed")
    attempt = run.latest_attempt()
    deadline = time.monotonic() + _AFTER_GRACE_SECONDS
    while run.is_held() and time.monotonic() < deadline:
        if attempt:
            kill_all(attempt)
        time.sleep(POLL_SECONDS)
    if run.is_held():
        pids = ", ".join(str(one.pid) for one in members(attempt)) if attempt else "unknown"
        raise RunError(
            f"The run {run.id} is still alive after SIGKILL (processes: {pids}).",
            remedy="It may be waiting for a disk or a driver; the run folder is untouched.",
            code="still-alive",
        )
    return _settled(run, attempt)


def _settled(run: RunDir, attempt: Attempt | None) -> RunState:
    """Where a run stands that is over, its helpers gone with it."""
    if attempt:
        kill_all(attempt)
    return run.state()


def wait(run: RunDir, *, timeout_seconds: float) -> RunState:
    """Wait until nothing works on the run any more; where it stands then comes back, even after a time-out."""
    deadline = time.monotonic() + timeout_seconds
    while run.is_held() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return run.state()


def _is_supervised(attempt: Attempt) -> bool:
    return attempt.supervisor is not None and is_alive(attempt.supervisor)


def _refuse_unless_live(run: RunDir) -> None:
    if not run.is_held():
        raise RunError(
            f"The run {run.id} is not running.", remedy="There is nothing to stop.", code="not-running"
        )
