"""The outcome of a run that failed, and the exit code of every outcome."""

from __future__ import annotations

from backend.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_STOPPED, TunesmithError
from backend.run.files import RunFiles
from backend.run.reports import Outcome, RunState, RunStatus
from backend.utils.file_utils import free_bytes
from backend.utils.reserve_utils import is_disk_full

STOP_EXIT_CODES = {"sighup": 129, "sigint": 130, "sigterm": 143}
TRAINING_FAILURES = {
    "internal-error", "lost-peer", "non-finite-loss", "non-finite-gradient", "reference-differs", "out-of-memory",
    "disk-full", "cannot-save", "reward-failed", "reward-too-slow", "bad-reward"
}  # fmt: skip


def failure(error: Exception, run: RunFiles) -> Outcome:
    """Return the outcome of a run that ``error`` ended: an error of ours, a full disk, or an unexpected error."""
    if isinstance(error, TunesmithError):
        return Outcome(RunStatus.FAILED, error.code, error.message, error.remedy)
    if isinstance(error, OSError) and is_disk_full(error):
        message = f"The disk is full: {error.filename or run.path} could not be written{_left(run)}."
        remedy = "Make room and resume the run; its checkpoints are intact."
        return Outcome(RunStatus.FAILED, "disk-full", message, remedy)
    message = f"Something unforeseen happened: {type(error).__name__}: {error}"
    remedy = f"The traceback is in {run.train_log}; report it, then resume the run."
    return Outcome(RunStatus.FAILED, "internal-error", message, remedy)


def _left(run: RunFiles) -> str:
    try:
        return f", {free_bytes(run.path):,} bytes are left"
    except OSError:
        return ""


def exit_code(outcome: Outcome) -> int:
    """Return the process exit code of an outcome.

    0 finished · 1 failed while training · 2 the input cannot be used · 3 stopped on request · 129, 130, 143 by a
    signal.
    """
    if outcome.status is RunStatus.FINISHED:
        return 0
    if outcome.status is RunStatus.STOPPED:
        return STOP_EXIT_CODES.get(outcome.code, EXIT_STOPPED)
    return EXIT_FAILED if outcome.code in TRAINING_FAILURES else EXIT_BAD_INPUT


def watched_exit_code(state: RunState) -> int:
    """The exit code of a program that watched a run until it came to rest in ``state``.

    0 finished, or never begun · 1 failed or interrupted · 3 stopped, also where a signal stopped it: that was sent to
    the trainer, and the codes of signals would say that they ended the watching.
    """
    if state.status in {RunStatus.FAILED, RunStatus.INTERRUPTED}:
        return EXIT_FAILED
    return EXIT_STOPPED if state.status is RunStatus.STOPPED else 0
