"""The composition root: the studio's folder and the managers over it, built once for all sessions."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from backend.manager.curves import Line, View, line
from backend.manager.queue_manager import QueueManager
from backend.manager.run_manager import RunManager
from backend.manager.scalars import RunScalars
from backend.manager.system_manager import SystemSampler
from backend.manager.tensorboard_manager import TensorBoardManager
from backend.run.folder import RunDir

ROOT_VARIABLE = "TUNESMITH_ROOT"
"""Names the folder that the studio works in; ``tunesmith studio --root`` sets it."""
SAMPLE_SECONDS = 1.0
"""How long all sessions are told the same about the machine: the processor is measured between two looks."""


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
        sampler=SystemSampler(folder, keep_seconds=SAMPLE_SECONDS),
    )


class Reading:
    """The curves of one run as far as they have been read; all sessions that look at it share them."""

    def __init__(self, run: RunDir) -> None:
        self._scalars = RunScalars(run)
        self._guard = threading.Lock()
        self._lines: dict[tuple[str, View], Line] = {}

    @contextmanager
    def fresh(self) -> Iterator[RunScalars]:
        """The curves with what is new, for one session at a time."""
        with self._guard:
            before = self._scalars.position
            try:
                self._scalars.poll()
            finally:
                if self._scalars.position != before:
                    self._lines.clear()
            yield self._scalars

    def line(self, tag: str, view: View) -> Line:
        """One curve as ``view`` wants it; made once until there is news: pages are drawn often."""
        with self.fresh() as scalars:
            if (tag, view) not in self._lines:
                self._lines[tag, view] = line(scalars, tag, view)
            return self._lines[tag, view]


def reading(run: RunDir) -> Reading:
    """What has been read of a run so far."""
    return _reading(str(run.path))


@st.cache_resource(show_spinner=False, max_entries=64)
def _reading(path: str) -> Reading:
    return Reading(RunDir(Path(path)))
