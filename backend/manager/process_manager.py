"""Start, stop and watch the process of a run. All state is in the run folder, none is kept here."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Sequence

from backend.errors import NextStep, RunError
from backend.manager.attempts import Escalation, Policy, is_supervised, kill_all, members
from backend.manager.programs import SUPERVISOR, TRAINER, child_environ, python_command
from backend.manager.ranks import torchrun_command
from backend.manager.system_manager import forecast_disk
from backend.run.folder import RunDir
from backend.run.lifecycle import Event
from backend.run.reports import KILLED, Attempt, RunState
from backend.utils.detach import spawn_detached

START_SECONDS = 30.0
POLL_SECONDS = 0.05
_AFTER_GRACE_SECONDS = 5.0


def trainer_command(run: RunDir) -> tuple[str, ...]:
    """The command that trains a run in one process."""
    return python_command(TRAINER, str(run.path), unbuffered=True)


def start(run: RunDir, *, policy: Policy | None = None, command: Sequence[str] | None = None) -> RunState:
    """Start or resume a run in the background; it outlives the caller. Returns once its first attempt has begun.

    Raises RunError: ``already-running``, ``illegal-transition`` (finished), ``damaged-run``, ``disk-low``,
    ``cannot-start``, ``several-machines``, ``no-such-run``.
    """
    with run.hold_for_reading():  # or it could be deleted while it is looked at
        _refuse_unless_startable(run)
    reader, writer = os.pipe()
    try:
        _spawn(
            run, _supervisor_command(run, policy or Policy(), command or trainer_command(run), writer), writer
        )
        os.close(writer)
        writer = -1
        _await_message(run, reader)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    return run.state()


def _spawn(run: RunDir, command: Sequence[str], writer: int) -> None:
    try:
        spawn_detached(command, log=run.supervisor_log, environ=child_environ(), pass_fds=(writer,))
    except OSError as error:
        raise RunError(
            f"The supervisor of {run.id} could not be started ({error}).",
            remedy="Check the run folder's permissions and the room on its disk, then start the run again.",
            code="cannot-start",
        ) from error


def _refuse_unless_startable(run: RunDir) -> None:
    state = run.state()
    if state.is_live:
        raise RunError(
            f"The run {run.id} is being worked on already.",
            remedy="Wait until it is over, or stop it.",
            code="already-running",
            next_step=NextStep.WATCH,
            about=run.id,
        )
    run.require(Event.START)
    by_hand = torchrun_command(run)
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
    flags = [f"{name}={value}" for name, value in options.items() if value is not None]
    return [*python_command(SUPERVISOR), *flags, "--", str(run.path), *command]


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
        next_step = None if error["next_step"] is None else NextStep(error["next_step"])
        raise RunError(
            error["message"],
            remedy=error["remedy"],
            code=error["code"],
            next_step=next_step,
            about=error["about"],
        )


def stop(
    run: RunDir,
    *,
    reason: str = "stop-requested",
    policy: Policy | None = None,
    wait_seconds: float | None = None,
) -> RunState:
    """Ask a run to save a checkpoint and stop, and see that it does. Deletes nothing. Returns where it stands then.

    The supervisor carries the stop through; without one we do. After ``wait_seconds``, or as long as the run's own
    steps suggest, it is killed; one in a person's own command or script never is, and is left stopping. Where the
    request cannot be written, SIGTERM tells the trainer instead. Raises RunError ``not-running``, or ``still-alive``
    when even SIGKILL did not end it.
    """
    policy = policy or Policy()
    _refuse_unless_live(run)
    asked = _ask(run, reason, wait_seconds)
    attempt = _latest_attempt(run)
    pressure = Escalation(run, attempt, policy)
    while run.is_held() and pressure.waited_seconds() < pressure.grace_seconds() + _AFTER_GRACE_SECONDS:
        if attempt is None and (attempt := _latest_attempt(run)):
            pressure = Escalation(run, attempt, policy)
        if not asked or not (attempt and is_supervised(run, attempt)):
            pressure.tick(at_once=not asked)
        if not run.stop_requested():  # a holder that has only just begun swept it away, or the disk is full
            asked = _ask(run, reason, wait_seconds)
        time.sleep(POLL_SECONDS)
    if not run.is_held():
        return _settled(run, attempt)
    return run.state() if attempt and attempt.is_own_process else kill(run)


def pause(run: RunDir, *, policy: Policy | None = None, wait_seconds: float | None = None) -> RunState:
    """A stop that says why: the run is meant to go on later."""
    return stop(run, reason="paused", policy=policy, wait_seconds=wait_seconds)


def kill(run: RunDir) -> RunState:
    """End a run at once, without a checkpoint.

    Raises RunError: ``not-running``, ``still-alive``, and ``own-process`` where it trains in a person's own command,
    script or notebook, which is not ours to kill.
    """
    _refuse_unless_live(run)
    attempt = _latest_attempt(run)
    if attempt and attempt.is_own_process:
        raise _own_process(run, attempt)
    _ask(run, KILLED)
    deadline = time.monotonic() + _AFTER_GRACE_SECONDS
    while run.is_held() and time.monotonic() < deadline:
        if attempt:
            kill_all(run, attempt)
        time.sleep(POLL_SECONDS)
    if run.is_held():
        pids = ", ".join(str(one.pid) for one in members(run, attempt)) if attempt else ""
        raise RunError(
            f"The run {run.id} is still alive after SIGKILL (processes: {pids or 'unknown'}).",
            remedy="It may be waiting for a disk or a driver; the run folder is untouched.",
            code="still-alive",
        )
    return _settled(run, attempt)


def _ask(run: RunDir, reason: str, wait_seconds: float | None = None) -> bool:
    """Put the request to stop into the run's folder; False where the disk refuses it."""
    try:
        run.request_stop(reason, wait_seconds=wait_seconds)
    except OSError:
        return False
    return True


def _latest_attempt(run: RunDir) -> Attempt | None:
    """The attempt at work; None where none is recorded yet or its record is damaged."""
    try:
        return run.latest_attempt()
    except RunError:
        return None


def _own_process(run: RunDir, attempt: Attempt) -> RunError:
    where = f" (process {attempt.process.pid})" if attempt.process else ""
    return RunError(
        f"The run {run.id} trains in a command, script or notebook of yours{where}, which is not killed from here.",
        remedy="Press Ctrl-C there, twice to leave at once; or let it save and stop.",
        code="own-process",
        next_step=NextStep.STOP,
        about=run.id,
    )


def _settled(run: RunDir, attempt: Attempt | None) -> RunState:
    """Return the state of a run once it has ended and its helper processes too."""
    if attempt:
        kill_all(run, attempt)
    return run.state()


def wait(run: RunDir, *, timeout_seconds: float) -> RunState:
    """Wait until nothing works on the run any more; where it stands then comes back, even after a time-out."""
    deadline = time.monotonic() + timeout_seconds
    while run.is_held() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return run.state()


def _refuse_unless_live(run: RunDir) -> None:
    if not run.is_held():
        raise RunError(
            f"The run {run.id} is not running.", remedy="There is nothing to stop.", code="not-running"
        )
