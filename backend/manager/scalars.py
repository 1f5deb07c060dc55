"""The curves of a run, updated by reading only what is new."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress, groupby
from typing import Any

from backend.run.folder import RunDir
from backend.utils.jsonl_utils import TailPosition

Curve = tuple[list[int], list[float]]
_AT_ONCE_BYTES = 2**18
"""A long run is read in pieces: faster than at once, and its records are never all in memory."""
_NUMBERS = frozenset((int, float))
ELAPSED = "time/elapsed_seconds"
"""The curve of the seconds that a run has trained and evaluated so far; made here, not in the file."""


class RunScalars:
    """The scalars of one run from its ``metrics.jsonl``. ``poll`` reads what is new since the last one."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self.position = TailPosition()
        self._curves: dict[str, Curve] = {}
        self.latest: dict[str, object] = {}
        self.damaged_lines = 0
        self._elapsed_seconds = 0.0
        self._last_step = 0

    def poll(self) -> int:
        """Read what is new; the number of new lines. A run that was rewound is read anew from its start."""
        lines = 0
        while True:
            tail = self._run.metrics(self.position, limit_bytes=_AT_ONCE_BYTES)
            if tail.restarted:
                self._curves, self.latest, self.damaged_lines = {}, {}, 0
                self._elapsed_seconds, self._last_step = 0.0, 0
            elif tail.position == self.position:
                return lines
            self.position = tail.position
            self.damaged_lines += tail.damaged
            self._take(tail.records)
            lines += len(tail.records)

    def _take(self, records: list[dict[str, object]]) -> None:
        for record in records:
            self.latest.update(record)
        placed = [record for record in records if isinstance(record.get("step"), int)]
        for rows in _alike(placed):
            self._take_columns(rows)
        self._count_seconds(placed)

    def _take_columns(self, rows: list[dict[str, Any]]) -> None:
        """Rows of the same names, a column at a time: a long run has a million figures."""
        columns = dict(zip(rows[0], zip(*map(dict.values, rows), strict=True), strict=True))
        for tag in filter(_is_tag, columns):
            steps, values = columns["step"], columns[tag]
            if not {*map(type, values)} <= _NUMBERS:  # such as the text that stands for no number
                numbers = [type(value) in _NUMBERS for value in values]
                steps, values = tuple(compress(steps, numbers)), tuple(compress(values, numbers))
            if values:
                known_steps, known_values = self._curves.setdefault(tag, ([], []))
                known_steps += steps
                known_values += values

    def _count_seconds(self, records: list[dict[str, Any]]) -> None:
        """The time spent so far, as a curve; a step that was not written down counts like the next that was."""
        for record in records:
            seconds, step = record.get("seconds"), record["step"]
            if not isinstance(seconds, (int, float)):
                continue
            if record.get("kind") != "train":
                self._elapsed_seconds += seconds
                continue
            self._elapsed_seconds += seconds * max(1, step - self._last_step)
            self._last_step = step
            steps, values = self._curves.get(ELAPSED) or self._curves.setdefault(ELAPSED, ([], []))
            steps.append(step)
            values.append(self._elapsed_seconds)

    def tags(self) -> list[str]:
        """The names of the curves there are."""
        return sorted(self._curves)

    def curve(self, tag: str, *, limit: int | None = None) -> Curve:
        """Steps and values of one curve, thinned to about ``limit`` points; empty when there is none."""
        steps, values = self._curves.get(tag, ([], []))
        return decimate(steps, values, limit) if limit else (list(steps), list(values))


def _is_tag(name: str) -> bool:
    return "/" in name


def _alike(records: list[dict[str, object]]) -> Iterable[list[dict[str, object]]]:
    """The records in groups of the same names; neighbours only where two groups share a curve, for its order."""
    groups: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for record in records:
        groups.setdefault(tuple(record), []).append(record)
    tags = [name for names in groups for name in filter(_is_tag, names)]
    if len(tags) == len({*tags}):
        return groups.values()
    return [list(rows) for _, rows in groupby(records, tuple)]


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
