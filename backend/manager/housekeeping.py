"""What is looked after while a run lives: machine samples, the size of its log, the space on its disk.

Control wing: imports F0 and its neighbours here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

from backend.manager.alerts import Alert, AlertSettings, send
from backend.manager.health import health
from backend.manager.system_manager import SystemSampler, forecast_disk
from backend.run.folder import RunDir
from backend.utils.jsonl_utils import JsonlWriter

SAMPLE_SECONDS = 5.0
KEPT_SAMPLES = 5000


class Housekeeping:
    """Call ``tick`` often; it works every ``interval_seconds``. A full disk never stops it. ``close`` it."""

    def __init__(
        self,
        run: RunDir,
        *,
        log_limit_bytes: int,
        interval_seconds: float = SAMPLE_SECONDS,
    ) -> None:
        self._run = run
        self._log_limit_bytes = log_limit_bytes
        self._interval_seconds = interval_seconds
        self._sampler = SystemSampler(run.path)
        self._due = time.monotonic()
        self._was_silent = False
        self.wants_stop = False
        """Whether the disk is too full to go on, and even to write that down."""

    def tick(self) -> None:
        """Do what is due."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._interval_seconds
        # without room even for these lines the forecast below stops the run in time
        with contextlib.suppress(OSError):
            cap_log(self._run.train_log, self._log_limit_bytes)
            with JsonlWriter(self._run.system_file, keep_last=KEPT_SAMPLES) as writer:
                writer.append(self._sampler.sample().to_json())
        self._watch_disk()
        self._watch_silence()

    def _watch_disk(self) -> None:
        """Ask the run to stop while there is room for its last checkpoint."""
        try:
            if not forecast_disk(self._run).is_enough and not self._run.stop_requested():
                self._run.request_stop("disk-low")
        except OSError:
            self.wants_stop = True

    def _watch_silence(self) -> None:
        """One alert when the trainer falls silent, and another only after it has spoken again."""
        silent = not health(self._run).is_responding
        if silent and not self._was_silent:
            message = "The trainer has not written anything for a while; it may hang."
            send(
                Alert(self._run.id, "silent", "not-responding", message),
                AlertSettings.from_environ(os.environ),
            )
        self._was_silent = silent

    def close(self) -> None:
        """Let go of the sensors."""
        self._sampler.close()


def cap_log(log: Path, limit_bytes: int) -> bool:
    """Once ``log`` has outgrown its limit, move its second half to ``<name>.1`` and start it anew; True if so.

    The writer keeps its descriptor, which appends; so the file is emptied in place and never replaced.
    """
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        return False
    if size <= limit_bytes:
        return False
    with log.open("r+b") as stream, log.with_name(f"{log.name}.1").open("wb") as older:
        os.fchmod(older.fileno(), 0o600)
        stream.seek(size - limit_bytes // 2)
        shutil.copyfileobj(stream, older)
        stream.truncate(0)
    return True
