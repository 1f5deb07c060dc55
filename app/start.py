"""A configuration becomes a run at work, or in the queue: once, however often and from how many tabs it is asked."""

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
    """The run of ``config``, started or queued now; the one that is at work or waits already, where there is one.

    ``checked``: what the data check found. Raises RunError when it cannot be written or started; what was written
    then stays, as created.
    """
    run = launch(studio.runs.root, config, "queue" if queue else "start", checked=checked, once=True)
    if queue:
        move_on(studio.queue)
    return run
