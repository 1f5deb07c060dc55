"""The one way in which a configuration becomes a run, whoever asks: the terminal, the studio, an ablation."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

from backend.errors import RunError
from backend.manager import process_manager
from backend.manager.queue_manager import QueueManager
from backend.manager.run_manager import RunManager
from backend.run.config import RunConfig, config_yaml
from backend.run.folder import CONFIG_END, RunDir
from backend.run.lifecycle import LIVE
from backend.run.reports import DataCheck, RunStatus
from backend.run.root import require_name
from backend.run.settings import with_absolute_paths
from backend.utils.lock_utils import hold_lock

How = Literal["create", "start", "queue"]

_LOCK = ".start.lock"
_PATIENCE_SECONDS = 60.0


def launch(
    root: Path,
    config: RunConfig,
    how: How,
    *,
    checked: DataCheck | None = None,
    once: bool = False,
) -> RunDir:
    """Return a new run of ``config`` under ``root``: created only, started in the background, or put into the queue.

    ``checked``: what the data check found, kept with the run. ``once``: return the run that is at work or waits with
    this very configuration, where there is one, however often and from how many windows it is asked for.

    Raises RunError when it cannot be written or started; what was written then stays, as created.
    """
    require_name(config.name)
    config = with_absolute_paths(config)
    text = config_yaml(config)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with hold_lock(root / _LOCK, wait_seconds=_PATIENCE_SECONDS):
        alive = _alive(root, text) if once else None
        if alive:
            return alive
        run = RunDir.create(root, config.name or Path(config.data.train).stem, text)
        if checked:
            run.write_data_check(checked)
        if config.name.strip():
            with suppress(RunError):  # another run is called so: this one is known by its id
                RunManager(root).rename(run.id, config.name)
        if how == "queue":
            QueueManager(root).enqueue(run)
        elif how == "start":
            process_manager.start(run)
    return run


def _alive(root: Path, text: str) -> RunDir | None:
    """Return the run with this configuration that is at work, or waits for its turn."""
    wanted = f"{text.rstrip()}\n{CONFIG_END}\n"
    kinds = {*LIVE, RunStatus.QUEUED}
    candidates = (RunDir(one.path) for one in RunManager(root).list(archived=True) if one.status in kinds)
    return next((run for run in candidates if run.config.read_text(encoding="utf-8") == wanted), None)
