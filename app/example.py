"""The example that one click starts: the food rows that come with Tunesmith."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from app.studio import Studio
from backend.config import RunConfig, config_yaml, parse_config
from backend.lifecycle import LIVE
from backend.manager import process_manager
from backend.run_dir import CONFIG_END, RunDir
from backend.utils.config_utils import apply_overrides, environment_overrides, read_yaml
from backend.utils.lock_utils import hold_lock

_FILE = Path("examples") / "food-category.yaml"
_PATIENCE_SECONDS = 60.0


def example_config() -> RunConfig:
    """The example's configuration, with the environment's settings over it, as ``tunesmith train`` reads it."""
    base = _base()
    raw: dict[str, Any] = apply_overrides(read_yaml(base / _FILE), environment_overrides(os.environ))
    for name in ("train", "validation"):
        if isinstance(raw["data"].get(name), str):
            raw["data"][name] = str(base / raw["data"][name])
    return parse_config(raw)


def _base() -> Path:
    """Where ``examples`` lies: within this package when it was installed, beside it in a checkout."""
    here = Path(__file__).parent
    return here if (here / _FILE).is_file() else here.parent


def start_example(studio: Studio) -> RunDir:
    """The example at work: started now, or the one that is at work already, however often one asks.

    Raises TunesmithError when it cannot be started.
    """
    config = config_yaml(example_config())
    studio.runs.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with hold_lock(studio.runs.root / ".example.lock", wait_seconds=_PATIENCE_SECONDS):
        alive = _at_work(studio, config)
        if alive:
            return alive
        run = RunDir.create(studio.runs.root, "food-category", config)
        process_manager.start(run)
        return run


def _at_work(studio: Studio, config: str) -> RunDir | None:
    wanted = f"{config.rstrip()}\n{CONFIG_END}\n"
    living = (RunDir(one.path) for one in studio.runs.list(archived=True) if one.status in LIVE)
    return next((run for run in living if run.read_config_text() == wanted), None)
