"""The studio's folder and the managers for it, built once for all sessions."""

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
"""All sessions share one sample of the machine for this long: processor use is measured between two samples."""


@dataclass(frozen=True)
class Studio:
    """The objects that pages work with. ``root`` holds ``runs/`` and everything else that the studio keeps."""

    root: Path
    runs: RunManager
    queue: QueueManager
    tensorboard: TensorBoardManager
    sampler: SystemSampler


def studio() -> Studio:
    """Return the one studio of this process."""
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
    """The curves of one run as far as they have been read, shared by all sessions."""

    def __init__(self, run: RunDir) -> None:
        self._scalars = RunScalars(run)
        self._guard = threading.Lock()
        self._lines: dict[tuple[str, View], Line] = {}

    @contextmanager
    def fresh(self) -> Iterator[RunScalars]:
        """Read new records and yield the curves, to one session at a time."""
        with self._guard:
            before = self._scalars.position
            try:
                self._scalars.poll()
            finally:
                if self._scalars.position != before:
                    self._lines.clear()
            yield self._scalars

    def line(self, tag: str, view: View) -> Line:
        """Return one curve for ``view``; it is cached until new records come, since pages are drawn often."""
        with self.fresh() as scalars:
            if (tag, view) not in self._lines:
                self._lines[tag, view] = line(scalars, tag, view)
            return self._lines[tag, view]


def reading(run: RunDir) -> Reading:
    """Return the shared ``Reading`` of a run."""
    return _reading(str(run.path))


@st.cache_resource(show_spinner=False, max_entries=64)
def _reading(path: str) -> Reading:
    return Reading(RunDir(Path(path)))
