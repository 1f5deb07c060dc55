"""The small detached process of a run: it starts the trainer, waits, and records how each attempt ended.

``python -m backend.manager.supervisor RUN [options] -- COMMAND``. It holds the run's lock, which the trainer
inherits, so the run counts as alive while either of them lives.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from backend.errors import NextStep, RunError, TunesmithError
from backend.manager.alerts import Alert, AlertSettings, send
from backend.manager.attempts import (
    AttemptEvidence,
    Escalation,
    Policy,
    detail_of,
    kernel_oom_kills,
    kill_all,
    reason_of,
)
from backend.manager.housekeeping import Housekeeping
from backend.manager.programs import SUPERVISOR
from backend.manager.queue_manager import QueueManager
from backend.manager.queue_watch import move_on
from backend.manager.ranks import Ranks, launch, nproc_per_node
from backend.run.evidence import read_records
from backend.run.folder import RunDir
from backend.run.handover import Handover
from backend.run.lifecycle import Event, require
from backend.run.reports import KILLED, Attempt
from backend.utils.file_utils import free_bytes
from backend.utils.process_utils import identify, identify_started

TICK_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 60.0
_WORTH_ANOTHER_TRY = frozenset({"killed", "crashed"})


class Breaker:
    """Says whether a trainer that died may be started again: not for ever without a new checkpoint."""

    def __init__(self, restarts: int, step: int) -> None:
        self._allowed = restarts
        self._step = step
        self.used = 0

    def allows(self, step: int) -> bool:
        """Count one more death with ``step`` as the newest checkpoint; False when it was one too many."""
        if step > self._step:
            self._step, self.used = step, 0
        self.used += 1
        return self.used <= self._allowed


class Ready:
    """The supervisor's one message to its starter: all well, or the error that kept it from starting."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def say(self, error: TunesmithError | None = None) -> None:
        """Send the message, once; whether anybody still listens does not matter."""
        if self._descriptor is None:
            return
        names = ("message", "remedy", "code", "next_step", "about") if error else ()
        message = {name: getattr(error, name) for name in names}
        with contextlib.suppress(BrokenPipeError):
            os.write(self._descriptor, json.dumps(message).encode())
        os.close(self._descriptor)
        self._descriptor = None


class Supervisor:
    """One run and its attempts, for as long as ``lock``, the descriptor of the run's lock, is held.

    ``signals`` are the SIGTERMs that this process was sent. No disk that refuses keeps it from its work.
    """

    def __init__(
        self, run: RunDir, command: Sequence[str], policy: Policy, lock: int, signals: Sequence[int] = ()
    ) -> None:
        self._run, self._signals = run, signals
        self._command = tuple(command)
        self._policy = policy
        self._lock = lock
        self._nproc_per_node = nproc_per_node(run)
        self._breaker = Breaker(policy.restarts, run.newest_checkpoint_step())

    def supervise(self, ready: Ready) -> None:
        """Attempt after attempt until the run has ended, a stop was asked for, or the policy says no."""
        while self._attempt(ready) and self._pause():
            pass

    def _attempt(self, ready: Ready) -> bool:
        """One attempt from beginning to end; True when another one is worth it."""
        oom_kills = kernel_oom_kills()
        token = secrets.token_hex(16)
        attempt = self._run.begin_attempt(self._command, supervisor=identify(os.getpid()), token=token)
        trainer = self._launch(attempt)
        attempt = self._with_process(attempt, trainer.pid)
        ready.say()
        forced = self._watch(attempt, trainer)
        kill_all(self._run, attempt)
        records = read_records(self._run)
        evidence = AttemptEvidence(
            returncode=trainer.returncode,
            has_outcome=records.outcome is not None,
            forced=forced,
            stopped_early=self._stop_asked() and not records.reported,
            at_once=self._run.stop_requested() == KILLED,
            oom_kills=kernel_oom_kills() - oom_kills,
            free_bytes=free_bytes(self._run.path),
        )
        return self._conclude(attempt, evidence)

    def _with_process(self, attempt: Attempt, pid: int) -> Attempt:
        """Record the trainer's process; on a disk that refuses we alone know of it, and the token finds it too."""
        try:
            return self._run.set_process(attempt, pid)
        except ProcessLookupError:  # gone already: the wait sees how
            return attempt
        except OSError:
            traceback.print_exc()
            return replace(attempt, process=identify_started(pid))

    def _conclude(self, attempt: Attempt, evidence: AttemptEvidence) -> bool:
        again, reason, returncode = False, reason_of(evidence), evidence.returncode
        if reason in _WORTH_ANOTHER_TRY and self._policy.restarts and not self._stop_asked():
            again = self._breaker.allows(self._run.newest_checkpoint_step())
            reason = reason if again else "crash-loop"
        try:
            self._run.end_attempt(
                attempt,
                reason,
                exit_code=returncode if returncode >= 0 else None,
                signal_number=-returncode if returncode < 0 else None,
                detail=detail_of(evidence, self._run.path),
            )
        except OSError:  # not even the bytes set aside were enough: the log says why
            traceback.print_exc()
            return False
        return again

    def _stop_asked(self) -> bool:
        """Return whether the run must stop: by a request in its folder, or by a SIGTERM, which becomes one."""
        if self._signals and self._run.stop_requested() is None:
            with contextlib.suppress(OSError):  # the escalation tells the trainer then
                self._run.request_stop("sigterm")
        return bool(self._signals) or self._run.stop_requested() is not None

    def _launch(self, attempt: Attempt) -> Ranks:
        """The trainer in a session of its own, with the lock, the attempt's number and its token."""
        environ = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
            **_visible_devices(attempt.device),
        }
        handover = Handover(attempt.number, self._lock, attempt.token)
        try:
            return launch(self._command, environ, handover, run=self._run, count=self._nproc_per_node)
        except OSError as error:
            self._run.end_attempt(attempt, "error", exit_code=127)
            raise RunError(
                f"The trainer could not be started ({error}).",
                remedy="Mend that, and start the run again.",
                code="cannot-start",
                next_step=NextStep.CHECK_INSTALLATION,
            ) from error

    def _watch(self, attempt: Attempt, trainer: Ranks) -> bool:
        """Wait for the trainer, look after the run, and see a stop request through; True when it had to be killed."""
        escalation = Escalation(self._run, attempt, self._policy)
        housekeeping = Housekeeping(self._run, log_limit_bytes=self._policy.log_limit_bytes)
        try:
            while not trainer.wait(TICK_SECONDS):
                housekeeping.tick()
                if self._stop_asked() or housekeeping.wants_stop:
                    escalation.tick(at_once=self._run.stop_requested() is None)
        finally:
            housekeeping.close()
        return escalation.forced

    def _pause(self) -> bool:
        """Wait before the next attempt; False when a stop is asked for meanwhile."""
        seconds = self._policy.backoff_seconds * 2 ** (self._breaker.used - 1)
        deadline = time.monotonic() + min(seconds, LONGEST_BACKOFF_SECONDS)
        while time.monotonic() < deadline and not self._stop_asked():
            time.sleep(min(TICK_SECONDS, self._policy.backoff_seconds))
        return not self._stop_asked()


def _visible_devices(device: str) -> dict[str, str]:
    """Queue device ``cuda:1`` shows the trainer that GPU only; other names show it everything."""
    kind, _, index = device.partition(":")
    return {"CUDA_VISIBLE_DEVICES": index} if kind == "cuda" and index.isdecimal() else {}


def own(run: RunDir, command: Sequence[str], policy: Policy, ready: Ready) -> None:
    """Take the run and see it through. Raises RunError when it is taken, over, or cannot be started."""
    with run.lock() as lock, _noted_sigterms() as signals:
        run.set_damage_aside()
        require(run.id, run.state_at_rest().status, Event.START)
        _sweep_last_attempt(run)
        Supervisor(run, command, policy, lock, signals).supervise(ready)


def _sweep_last_attempt(run: RunDir) -> None:
    """Helpers of an attempt whose supervisor was killed have nobody else to end them."""
    last = run.latest_attempt()
    if last:
        kill_all(run, last)


@contextlib.contextmanager
def _noted_sigterms() -> Iterator[Sequence[int]]:
    """A machine that shuts down tells every process to end: for us that is a wish to save and stop, noted here."""
    noted: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str]) -> int:
    """The door of the process: 0 when the run was seen through, 1 when it could not be started."""
    options = _parser().parse_args(argv)
    policy = Policy(options.restarts, options.backoff, options.term, options.grace)
    run, ready = RunDir(Path(options.run)), Ready(options.ready_fd)
    try:
        own(run, options.command, policy, ready)
    except TunesmithError as error:
        ready.say(error)
        return 1
    except Exception as error:  # noqa: BLE001  the door: the log gets all of it
        traceback.print_exc()
        ready.say(_broken(run, error))
        return 1
    finally:
        _start_the_next(run)
    for problem in send(Alert.about(run.id, run.state()), AlertSettings.from_environ(os.environ)):
        print(problem, file=sys.stderr)  # noqa: T201  supervisor.log
    return 0


def _start_the_next(run: RunDir) -> None:
    """Let the queue move; what goes wrong with another run is no reason to end without a word about this one."""
    try:
        move_on(QueueManager(run.path.parent))
    except (TunesmithError, OSError):
        traceback.print_exc()


def _broken(run: RunDir, error: Exception) -> RunError:
    return RunError(
        f"The supervisor of {run.id} broke down ({type(error).__name__}).",
        remedy=f"The whole story is in {run.supervisor_log}",
        code="supervisor-broke",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=SUPERVISOR)
    parser.add_argument("run")
    parser.add_argument("--restarts", type=int, default=Policy.restarts)
    parser.add_argument("--backoff", type=float, default=Policy.backoff_seconds)
    parser.add_argument("--term", type=float, default=Policy.term_seconds)
    parser.add_argument("--grace", type=float, default=Policy.grace_seconds)
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("command", nargs="+")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
