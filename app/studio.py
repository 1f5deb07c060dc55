"""The composition root: the studio's folder and the managers over it, built once for all sessions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from backend.manager.queue_manager import QueueManager
from backend.manager.run_manager import RunManager
from backend.manager.system_manager import SystemSampler
from backend.manager.tensorboard_manager import TensorBoardManager

ROOT_VARIABLE = "TUNESMITH_ROOT"
"""Names the folder that the studio works in; ``tunesmith studio --root`` sets it."""


@dataclass(frozen=True)
class Studio:
    """What the pages work with. ``root`` holds ``runs/`` and whatever else the studio keeps."""

    root: Path
    runs: RunManager
    queue: QueueManager
    tensorboard: TensorBoardManager
    sampler: SystemSampler


def studio() -> Studio:
    """The one studio of this process."""
    return _build(str(Path(os.environ.get(ROOT_VARIABLE, "")).absolute()))


@st.cache_resource(show_spinner=False)
def _build(root: str) -> Studio:
    folder = Path(root)
    runs = folder / "runs"
    return Studio(
        root=folder,
        runs=RunManager(runs),
        queue=QueueManager(runs),
        tensorboard=TensorBoardManager(runs),
        sampler=SystemSampler(folder),
    )
