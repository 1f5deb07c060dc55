"""Start or queue a run from a configuration, only once even if it is requested from several tabs."""

from __future__ import annotations

from app.studio import Studio
from backend.manager.launch import launch
from backend.manager.queue_watch import move_on
from backend.run.config import RunConfig
from backend.run.folder import RunDir
from backend.run.reports import DataCheck


def begin(
    studio: Studio, config: RunConfig, *, queue: bool = False, checked: DataCheck | None = None
) -> RunDir:
    """Start or queue ``config`` and return its run; if such a run is active or queued already, return that one.

    ``checked``: the findings of the data check. Raises RunError if it cannot be written or started; a run that was
    written but not started stays as created.
    """
    run = launch(studio.runs.root, config, "queue" if queue else "start", checked=checked, once=True)
    if queue:
        move_on(studio.queue)
    return run
