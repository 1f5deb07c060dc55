"""Judge how long a run may be silent by the times of its own steps, evaluations and checkpoints."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from backend.run.files import RunFiles
from backend.run.reports import Attempt
from backend.utils.jsonl_utils import last_records
from backend.utils.process_utils import is_suspended

LEAST_SECONDS = 30.0
UNMEASURED_SECONDS = 600.0
"""What is allowed where nothing of its kind was ever timed: a first step, the last evaluation, a first checkpoint."""
LONGEST_SECONDS = 6 * 3600.0
SILENCE_SECONDS = 600.0
"""Less than this is never called silence, however fast the steps were."""
SAVE_BYTES_PER_SECOND = 20e6
_STEPS, _EVALUATIONS = 4.0, 2.0
_RECENT = 50


@dataclass(frozen=True)
class Patience:
    """The seconds that a trainer may take to obey a request to stop, and the reason, to follow "because"."""

    seconds: float
    why: str


@dataclass(frozen=True)
class Health:
    """The signs of life of a run: seconds since its last write, how many are usual, and if it is suspended."""

    silent_seconds: float
    is_suspended: bool
    patience_seconds: float = SILENCE_SECONDS

    @property
    def is_responding(self) -> bool:
        """True if its process may run and has written something lately."""
        return not self.is_suspended and self.silent_seconds < self.patience_seconds


RESPONDING = Health(0.0, False)


def patience(run: RunFiles, attempt: Attempt | None) -> Patience:
    """Return how long this run may take to stop before it counts as hung, and why. Raises nothing.

    It waits for the step that is under way, for an evaluation that may follow it, and for a checkpoint.
    """
    if attempt and attempt.process and is_suspended(attempt.process):
        return Patience(LEAST_SECONDS, "its process is suspended")
    lately = list(islice(last_records(run.metrics_file), _RECENT))
    steps, evaluations = (list(_seconds(lately, kind)) for kind in ("train", "eval"))
    if not steps or _written(run.metrics_file) < _written(run.environment):
        at_least = max([*steps, *evaluations], default=0.0) * _STEPS
        return _limited(UNMEASURED_SECONDS + at_least, "none of its steps has been timed yet")
    if _is_last(lately[0]):
        return _limited(UNMEASURED_SECONDS + _STEPS * max(steps), "it evaluates and saves what it trained")
    save = _save_seconds(run)
    allowed = _STEPS * max(steps) + _EVALUATIONS * max(evaluations, default=0.0) + save
    words = f"its steps take up to {max(steps):.3g} s"
    if evaluations:
        words += f", an evaluation up to {max(evaluations):.3g} s"
    return _limited(allowed, f"{words} and a checkpoint up to {max(1.0, save):.0f} s")


def health(run: RunFiles, attempt: Attempt | None) -> Health:
    """Return the signs of life of a run, from the times of the files that its trainer writes. Raises nothing."""
    signs = (run.metrics_file, run.train_log, run.environment, run.checkpoints, run.attempts)
    silent = max(0.0, time.time() - max(map(_written, signs)))
    if not any(map(_written, signs)):
        silent = 0.0
    if attempt and attempt.process and is_suspended(attempt.process):
        return Health(silent, True)
    if silent < SILENCE_SECONDS:
        return Health(silent, False)
    return Health(silent, False, max(SILENCE_SECONDS, patience(run, attempt).seconds))


def _limited(seconds: float, why: str) -> Patience:
    return Patience(min(LONGEST_SECONDS, max(LEAST_SECONDS, seconds)), why)


def _seconds(records: list[dict[str, object]], kind: str) -> Iterator[float]:
    """Yield the seconds of the reports of a kind; values that make no sense are left out."""
    for record in records:
        seconds = record.get("seconds")
        if record.get("kind") == kind and isinstance(seconds, int | float) and 0 <= seconds < math.inf:
            yield float(seconds)


def _is_last(record: dict[str, object]) -> bool:
    step, total = record.get("step"), record.get("total_steps")
    return isinstance(step, int) and isinstance(total, int) and step >= total > 0


def _save_seconds(run: RunFiles) -> float:
    """Return the seconds that a checkpoint may take on a slow disk, by the size of the newest one."""
    step = run.newest_checkpoint_step()
    if not step:
        return UNMEASURED_SECONDS / 5
    return sum(map(_bytes, run.checkpoint(step).glob("*"))) / SAVE_BYTES_PER_SECOND


def _bytes(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _written(path: Path) -> float:
    """Return when a file or folder last changed, in seconds of the wall clock; 0 if there is none."""
    try:
        return os.stat(path).st_mtime  # noqa: PTH116
    except OSError:
        return 0.0
