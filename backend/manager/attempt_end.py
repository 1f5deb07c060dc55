"""Why an attempt ended, from what can be seen of it. Control wing: standard library only."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

NEARLY_FULL_BYTES = 2**20
_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS}
)


@dataclass(frozen=True)
class AttemptEvidence:
    """What is known when the trainer's process has ended.

    ``returncode`` as subprocess gives it (negative: a signal); ``forced``: we killed it after the grace period;
    ``stopped_early``: a stop was asked for before it had begun to train; ``at_once``: it was asked for without a
    checkpoint; ``oom_kills``: how often the kernel killed for memory meanwhile; ``free_bytes`` on the run's disk.
    """

    returncode: int
    has_outcome: bool
    forced: bool
    stopped_early: bool
    at_once: bool
    oom_kills: int
    free_bytes: int


def reason_of(evidence: AttemptEvidence) -> str:
    """The reason as ``AttemptEnd`` lists them."""
    if evidence.has_outcome:
        return "exited"
    return _reason_of_exit(evidence) if evidence.returncode >= 0 else _reason_of_signal(evidence)


def detail_of(evidence: AttemptEvidence, folder: Path) -> str:
    """Return a sentence with place and bytes where the disk of ``folder`` is full; else an empty one."""
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
    """How many processes this kernel has killed for want of memory; 0 where it does not say."""
    try:
        lines = counters.read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
