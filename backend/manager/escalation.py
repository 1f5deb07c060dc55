"""How patient a supervisor is, and what follows a stop request that the trainer does not heed.

Control wing: imports F0 and its neighbour here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from backend.manager.attempt_processes import ask_to_end, kill_all
from backend.run.folder import RunDir
from backend.run.pace import patience
from backend.run.reports import Attempt


@dataclass(frozen=True)
class Policy:
    """How patient the supervisor is.

    ``restarts``: how many times in a row a killed or crashed trainer is started again without a new checkpoint
    in between. ``backoff_seconds``: the pause before the first of them, doubled each time. A stop request is
    followed by SIGTERM after ``term_seconds`` and by SIGKILL after ``grace_seconds``; None: as long as the run's own
    steps suggest, see ``run_pace``.
    """

    restarts: int = 0
    backoff_seconds: float = 1.0
    term_seconds: float = 2.0
    grace_seconds: float | None = None
    log_limit_bytes: int = 64 * 2**20


class Escalation:
    """What follows a stop request that the trainer does not heed: SIGTERM, then SIGKILL for all it started."""

    def __init__(self, run: RunDir, attempt: Attempt | None, policy: Policy) -> None:
        self._run, self._attempt, self._policy = run, attempt, policy
        self._began: float | None = None
        self._grace = 0.0
        self._asked = False
        self.forced = False

    def waited_seconds(self) -> float:
        """Seconds since this was first asked, which starts the clock."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
            grace = self._policy.grace_seconds
            self._grace = patience(self._run, self._attempt).seconds if grace is None else grace
        return now - self._began

    def grace_seconds(self) -> float:
        """How long the trainer may take: what the request says, else the policy, else the run's own pace."""
        asked_for = self._run.stop_wait_seconds()
        return self._grace if asked_for is None else asked_for

    def tick(self, *, at_once: bool = False) -> None:
        """Call often once a stop is asked for. ``at_once``: nobody but SIGTERM can tell the trainer."""
        waited = self.waited_seconds()
        if self._attempt is None:
            return
        if (at_once or waited >= self._policy.term_seconds) and not self._asked:
            self._asked = True
            ask_to_end(self._run, self._attempt)
        if waited >= self.grace_seconds():
            self.forced = True
            kill_all(self._run, self._attempt)
