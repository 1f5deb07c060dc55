"""Start or queue a run from a configuration: one run, even if several tabs ask for it."""

from __future__ import annotations

from app.studio import Studio
from backend.manager.launch import launch
from backend.manager.queue_watch import move_on
from backend.run.config import RunConfig
from backend.run.folder import RunDir
from backend.run.reports import DataCheck


def start_or_queue(
    studio: Studio, config: RunConfig, *, queue: bool = False, checked: DataCheck | None = None
) -> RunDir:
    """Start ``config`` as a run, or queue it, and return the run; the existing one if it is active or queued already.

    ``checked``: the findings of the data check; None lets the trainer check. Raises RunError or OSError if the run
    cannot be written, started or queued; one that was written but not started keeps the status created.
    """
    run = launch(studio.runs.root, config, "queue" if queue else "start", checked=checked, once=True)
    if queue:  # start it now if a slot is free; without this it would wait for another run to end
        move_on(studio.queue)
    return run
