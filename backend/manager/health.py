"""How a live run feels, from the signs of life that it leaves. Control wing: F0 and psutil."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from backend.errors import RunError
from backend.reports import Attempt
from backend.run_dir import RunDir
from backend.utils.process_utils import is_alive

PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class Health:
    """How a live run feels: seconds since it last wrote anything, and whether its process is suspended."""

    silent_seconds: float
    is_suspended: bool

    def is_responding(self, patience_seconds: float = PATIENCE_SECONDS) -> bool:
        """Whether there was a sign of life within ``patience_seconds``."""
        return not self.is_suspended and self.silent_seconds < patience_seconds


def health(run: RunDir) -> Health:
    """The signs of life of a run, from the times of the files that its trainer writes."""
    signs = (run.metrics_file, run.train_log, run.environment, run.checkpoints, run.attempts)
    times = [sign.stat().st_mtime for sign in signs if sign.exists()]
    silent = max(0.0, time.time() - max(times, default=time.time()))
    return Health(silent, _is_suspended(_latest_attempt(run)))


def _latest_attempt(run: RunDir) -> Attempt | None:
    try:
        return run.latest_attempt()
    except RunError:
        return None


def _is_suspended(attempt: Attempt | None) -> bool:
    if attempt is None or attempt.process is None or not is_alive(attempt.process):
        return False
    try:
        return bool(psutil.Process(attempt.process.pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False
