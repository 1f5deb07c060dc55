"""The curves of a run, kept up to date by reading only what is new. Control wing: imports F0 only."""

from __future__ import annotations

from collections.abc import Sequence

from backend.run_dir import RunDir
from backend.utils.jsonl_utils import TailPosition

Curve = tuple[list[int], list[float]]
_AT_ONCE_BYTES = 2**18
"""A long run is read in pieces: faster than at once, and its records are never all in memory."""
ELAPSED = "time/elapsed_seconds"
"""The curve of the seconds that a run has trained and evaluated so far; made here, not in the file."""


class RunScalars:
    """The scalars of one run from its ``metrics.jsonl``. ``poll`` reads what is new since the last one."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._position = TailPosition()
        self._curves: dict[str, Curve] = {}
        self.latest: dict[str, object] = {}
        self.damaged_lines = 0
        self._elapsed_seconds = 0.0
        self._last_step = 0

    def poll(self) -> int:
        """Read what is new; the number of new lines. A run that was rewound is read anew from its start."""
        lines = 0
        while True:
            tail = self._run.metrics(self._position, limit_bytes=_AT_ONCE_BYTES)
            if tail.restarted:
                self._curves, self.latest, self.damaged_lines = {}, {}, 0
                self._elapsed_seconds, self._last_step = 0.0, 0
            elif tail.position == self._position:
                return lines
            self._position = tail.position
            self.damaged_lines += tail.damaged
            for record in tail.records:
                self._take(record)
            lines += len(tail.records)

    def _take(self, record: dict[str, object]) -> None:
        self.latest.update(record)
        step = record.get("step")
        if not isinstance(step, int):
            return
        curves = self._curves
        for tag, value in record.items():  # a million of these for a long run
            if "/" in tag and (type(value) is float or type(value) is int):
                steps, values = curves.get(tag) or curves.setdefault(tag, ([], []))
                steps.append(step)
                values.append(value)
        self._count_seconds(step, record)

    def _count_seconds(self, step: int, record: dict[str, object]) -> None:
        """The time spent so far, as a curve; a step that was not written down counts like the next that was."""
        seconds, is_step = record.get("seconds"), record.get("kind") == "train"
        if not isinstance(seconds, int | float):
            return
        self._elapsed_seconds += seconds * max(1, step - self._last_step) if is_step else seconds
        if is_step:
            self._last_step = step
            steps, values = self._curves.setdefault(ELAPSED, ([], []))
            steps.append(step)
            values.append(self._elapsed_seconds)

    def tags(self) -> list[str]:
        """The names of the curves there are."""
        return sorted(self._curves)

    def curve(self, tag: str, *, limit: int | None = None) -> Curve:
        """Steps and values of one curve, thinned to about ``limit`` points; empty when there is none."""
        steps, values = self._curves.get(tag, ([], []))
        return decimate(steps, values, limit) if limit else (list(steps), list(values))


def decimate(steps: Sequence[int], values: Sequence[float], limit: int) -> Curve:
    """At most ``limit`` points (at least 2) that keep the look of a curve.

    The curve is cut into equal stretches, and each keeps its lowest and its highest point, in order; so no
    spike is lost. The last point stays too.
    """
    limit = max(limit, 2)
    if len(steps) <= limit:
        return list(steps), list(values)
    stretches = max(1, (limit - 1) // 2)
    last = len(steps) - 1
    chosen = []
    for number in range(stretches):
        start, end = last * number // stretches, last * (number + 1) // stretches
        stretch = values[start:end]
        ends = {start + stretch.index(min(stretch)), start + stretch.index(max(stretch))}
        chosen += sorted(ends)
    chosen.append(last)
    return [steps[index] for index in chosen], [values[index] for index in chosen]


def eta_seconds(seconds_per_step: float, step: int, total_steps: int) -> float:
    """Seconds left at this pace; never negative."""
    return max(0.0, seconds_per_step * (total_steps - step))


def duration(seconds: float) -> str:
    """``4 s``, ``12:05 min``, ``25:01:00 h``: hours are never folded into days."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h"
