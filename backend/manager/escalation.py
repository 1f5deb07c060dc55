"""How patient a supervisor is, and what follows a stop request that the trainer does not heed.

Control wing: imports F0 and its neighbour here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from backend.manager.attempt_processes import ask_to_end, kill_all
from backend.reports import Attempt


@dataclass(frozen=True)
class Policy:
    """How patient the supervisor is.

    ``restarts``: how many times in a row a killed or crashed trainer is started again without a new checkpoint
    in between. ``backoff_seconds``: the pause before the first of them, doubled each time. A stop request is
    followed by SIGTERM after ``term_seconds`` and by SIGKILL after ``grace_seconds``.
    """

    restarts: int = 0
    backoff_seconds: float = 1.0
    term_seconds: float = 2.0
    grace_seconds: float = 30.0
    log_limit_bytes: int = 64 * 2**20


class Escalation:
    """What follows a stop request that the trainer does not heed: SIGTERM, then SIGKILL for all it started."""

    def __init__(self, attempt: Attempt, policy: Policy) -> None:
        self._attempt = attempt
        self._policy = policy
        self._began: float | None = None
        self._asked = False
        self.forced = False

    def tick(self) -> None:
        """Call often once a stop is asked for; the first call starts the clock."""
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        waited = now - self._began
        if waited >= self._policy.term_seconds and not self._asked:
            self._asked = True
            ask_to_end(self._attempt)
        if waited >= self._policy.grace_seconds:
            self.forced = True
            kill_all(self._attempt)
