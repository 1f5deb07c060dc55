"""A configuration becomes a run at work, or in the queue: once, however often and from how many tabs it is asked."""

from __future__ import annotations

from pathlib import Path

from app.studio import Studio
from backend.config import RunConfig, config_yaml
from backend.config_paths import with_absolute_paths
from backend.lifecycle import LIVE
from backend.manager import process_manager
from backend.reports import RunStatus
from backend.run_dir import CONFIG_END, RunDir
from backend.utils.lock_utils import hold_lock

_LOCK = ".start.lock"
_PATIENCE_SECONDS = 60.0


def begin(studio: Studio, config: RunConfig, *, queue: bool = False) -> RunDir:
    """The run of ``config``, started or queued now; the one that is at work or waits already, where there is one.

    Raises RunError when it cannot be written or started; what was written then stays, as created.
    """
    config = with_absolute_paths(config)
    text = config_yaml(config)
    studio.runs.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with hold_lock(studio.runs.root / _LOCK, wait_seconds=_PATIENCE_SECONDS):
        alive = _alive(studio, text)
        if alive:
            return alive
        run = RunDir.create(studio.runs.root, config.name or Path(config.data.train).stem, text)
        if queue:
            studio.queue.enqueue(run)
        else:
            process_manager.start(run)
    if queue:
        studio.queue.schedule()
    return run


def _alive(studio: Studio, text: str) -> RunDir | None:
    """The run with this configuration that is at work, or waits for its turn."""
    wanted = f"{text.rstrip()}\n{CONFIG_END}\n"
    kinds = {*LIVE, RunStatus.QUEUED}
    candidates = (RunDir(one.path) for one in studio.runs.list(archived=True) if one.status in kinds)
    return next((run for run in candidates if run.config.read_text(encoding="utf-8") == wanted), None)
