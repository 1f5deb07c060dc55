"""An attempt at a run: its processes, the escalation of a stop request, and the reason why it ended.

This is the only module that signals the processes of an attempt. A process belongs to an attempt if it is the
recorded one (pid, start time and boot all agree) or has the attempt's token in its environment. Two kinds of attempt
have no processes for us: one that began in another folder, of which this one is a copy, and one that trains inside a
person's own command, script or notebook.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from backend.run.files import RunFiles
from backend.run.folder import RunDir
from backend.run.handover import Handover
from backend.run.pace import patience
from backend.run.reports import Attempt
from backend.utils.process_utils import ProcessIdentity, catches, identify, is_alive, send_signal

NEARLY_FULL_BYTES = 2**20
_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS}
)


# --- processes --------------------------------------------------------------------------------------------


def members(run: RunFiles, attempt: Attempt) -> list[ProcessIdentity]:
    """Return every living process of the attempt: the trainer and all that it started."""
    if attempt.is_own_process or not _began_here(run, attempt):
        return []
    found = [attempt.process] if attempt.process and is_alive(attempt.process) else []
    if attempt.token:
        known = {identity.pid for identity in found}
        found += [one for one in _with_token(attempt.token) if one.pid not in known]
    return found


def is_supervised(run: RunFiles, attempt: Attempt) -> bool:
    """Return whether the supervisor of the attempt lives and belongs to this very folder."""
    return attempt.supervisor is not None and _began_here(run, attempt) and is_alive(attempt.supervisor)


def ask_to_end(run: RunFiles, attempt: Attempt) -> bool:
    """Send SIGTERM to the trainer; return False if it is gone.

    Its helpers are not signalled, since it needs them to save. A person's own process is signalled only if it handles
    SIGTERM: without a handler it would die unsaved.
    """
    if attempt.process is None or not _began_here(run, attempt):
        return False
    if attempt.is_own_process and not catches(attempt.process, signal.SIGTERM):
        return False
    return send_signal(attempt.process, signal.SIGTERM)


def kill_all(run: RunFiles, attempt: Attempt) -> int:
    """Send SIGKILL to every process of the attempt, also to those started meanwhile; return how many there were."""
    killed: set[ProcessIdentity] = set()
    while fresh := [one for one in members(run, attempt) if one not in killed]:
        for identity in fresh:
            send_signal(identity, signal.SIGKILL)
            killed.add(identity)
    return len(killed)


def _began_here(run: RunFiles, attempt: Attempt) -> bool:
    return bool(attempt.folder) and attempt.folder == run.mark


def _with_token(token: str) -> list[ProcessIdentity]:
    found = []
    for process in psutil.process_iter():
        try:
            if Handover.of(process.environ()).token == token:
                found.append(identify(process.pid))
        except (psutil.Error, ProcessLookupError, ValueError, OSError):
            continue  # it has ended, or belongs to another user
    return found


# --- a stop request ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Policy:
    """The patience of a supervisor.

    ``restarts``: how many times in a row a killed or crashed trainer is started again without a new checkpoint in
    between. ``backoff_seconds``: the pause before the first restart, doubled each time. A stop request is followed by
    SIGTERM after ``term_seconds`` and by SIGKILL after ``grace_seconds``; None: by the run's own pace (``run.pace``).
    """

    restarts: int = 0
    backoff_seconds: float = 1.0
    term_seconds: float = 2.0
    grace_seconds: float | None = None
    log_limit_bytes: int = 64 * 2**20


class Escalation:
    """The steps after a stop request: SIGTERM to the trainer, then SIGKILL to all that it started.

    ``forced`` is True once it has killed.
    """

    def __init__(self, run: RunDir, attempt: Attempt | None, policy: Policy) -> None:
        self._run, self._attempt, self._policy = run, attempt, policy
        self._began: float | None = None
        self._grace = 0.0
        self._terminated = False
        self.forced = False

    def waited_seconds(self) -> float:
        """Return the seconds since the first call, which starts the clock."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
            grace = self._policy.grace_seconds
            self._grace = patience(self._run, self._attempt).seconds if grace is None else grace
        return now - self._began

    def grace_seconds(self) -> float:
        """Return the time that the trainer has: by the request, else by the policy, else by the run's own pace."""
        requested = self._run.stop_wait_seconds()
        return self._grace if requested is None else requested

    def tick(self, *, at_once: bool = False) -> None:
        """Do what is due; call often once a stop is requested.

        ``at_once``: send SIGTERM without delay, because the trainer cannot see the request.
        """
        waited = self.waited_seconds()
        if self._attempt is None:
            return
        if (at_once or waited >= self._policy.term_seconds) and not self._terminated:
            self._terminated = True
            ask_to_end(self._run, self._attempt)
        if waited >= self.grace_seconds():
            self.forced = True
            kill_all(self._run, self._attempt)


# --- the end ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttemptEvidence:
    """The facts known when the trainer's process has ended.

    ``returncode`` as subprocess gives it (negative: a signal). ``forced``: we killed it after the grace period.
    ``stopped_early``: a stop was requested before it began to train. ``at_once``: a stop without a checkpoint was
    requested. ``oom_kills``: how often the kernel killed for memory meanwhile. ``free_bytes``: on the run's disk.
    """

    returncode: int
    has_outcome: bool
    forced: bool
    stopped_early: bool
    at_once: bool
    oom_kills: int
    free_bytes: int


def reason_of(evidence: AttemptEvidence) -> str:
    """Return the reason of an end, one of those that ``AttemptEnd`` lists."""
    if evidence.has_outcome:
        return "exited"
    return _reason_of_exit(evidence) if evidence.returncode >= 0 else _reason_of_signal(evidence)


def detail_of(evidence: AttemptEvidence, folder: Path) -> str:
    """Return a sentence with place and free bytes if the disk of ``folder`` was full, else ""."""
    if evidence.has_outcome or evidence.free_bytes >= NEARLY_FULL_BYTES:
        return ""
    return f"The disk was full: {folder} had {evidence.free_bytes:,} bytes left."


def _reason_of_signal(evidence: AttemptEvidence) -> str:
    number = -evidence.returncode
    if evidence.stopped_early and number in {signal.SIGTERM, signal.SIGKILL}:
        return "stopped"
    if evidence.at_once and number == signal.SIGKILL:
        return "ended-at-once"
    if evidence.forced:
        return "stop-forced"
    if number in _CRASHES:
        return "crashed"
    if number == signal.SIGKILL:
        return "out-of-memory" if evidence.oom_kills > 0 else "killed"
    return "terminated"


def _reason_of_exit(evidence: AttemptEvidence) -> str:
    if evidence.returncode == 0:
        return "no-outcome"
    return "disk-full" if evidence.free_bytes < NEARLY_FULL_BYTES else "error"


def kernel_oom_kills(counters: Path = Path("/proc/vmstat")) -> int:
    """Return how many processes this kernel has killed for lack of memory; 0 if it does not say."""
    try:
        lines = counters.read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
