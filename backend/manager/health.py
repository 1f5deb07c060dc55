"""The signs of life of a run that its managers watch. Control wing: F0 only."""

from __future__ import annotations

from backend.errors import RunError
from backend.run import pace as run_pace
from backend.run.folder import RunDir
from backend.run.pace import Health


def health(run: RunDir) -> Health:
    """Return how the latest attempt of a run feels; one whose record is damaged is judged by its silence alone."""
    try:
        attempt = run.latest_attempt()
    except RunError:
        attempt = None
    return run_pace.health(run, attempt)
