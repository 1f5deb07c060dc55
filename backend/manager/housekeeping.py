"""Work done while a run is active: machine samples, a bounded log, a check of disk space, alerts of silence."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

from backend.errors import RunError
from backend.manager.alerts import Alert, AlertSettings, send
from backend.manager.system_manager import SystemSampler, forecast_disk
from backend.run import pace
from backend.run.folder import RunDir
from backend.run.pace import Health
from backend.utils.jsonl_utils import JsonlWriter

SAMPLE_SECONDS = 5.0
KEPT_SAMPLES = 5000


def health(run: RunDir) -> Health:
    """Return the signs of life of the latest attempt; if its record is damaged, by its silence alone."""
    try:
        attempt = run.latest_attempt()
    except RunError:
        attempt = None
    return pace.health(run, attempt)


class Housekeeping:
    """Does its work every ``interval_seconds`` when ``tick`` is called often; errors of a full disk are ignored."""

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
        """True if the disk is too full to go on, and even to write the request to stop."""

    def tick(self) -> None:
        """Do what is due."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._interval_seconds
        # no room for these lines; the check of disk space below stops the run in time
        with contextlib.suppress(OSError):
            cap_log(self._run.train_log, self._log_limit_bytes)
            with JsonlWriter(self._run.system_file, keep_last=KEPT_SAMPLES) as writer:
                writer.append(self._sampler.sample().to_json())
        self._watch_disk()
        self._watch_silence()

    def _watch_disk(self) -> None:
        """Request a stop while there is still room for the last checkpoint."""
        try:
            if not forecast_disk(self._run).is_enough and not self._run.stop_requested():
                self._run.request_stop("disk-low")
        except OSError:
            self.wants_stop = True

    def _watch_silence(self) -> None:
        """Send one alert when the trainer falls silent; the next only after it has written again."""
        silent = not health(self._run).is_responding
        if silent and not self._was_silent:
            message = "The trainer has not written anything for a while; it may hang."
            send(
                Alert(self._run.id, "silent", "not-responding", message),
                AlertSettings.from_environ(os.environ),
            )
        self._was_silent = silent

    def close(self) -> None:
        """Close the sensors."""
        self._sampler.close()


def cap_log(log: Path, limit_bytes: int) -> bool:
    """Move the second half of ``log`` to ``<name>.1`` and empty it once it is over its limit; return True if so.

    The file is emptied in place and not replaced, since the writer keeps its descriptor open for appending.
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
