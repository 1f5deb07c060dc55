"""Prepare curves for drawing: other axes, smoothing, a part of the run; and the time left."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from backend.manager.scalars import ELAPSED, RunScalars, decimate
from backend.run.metrics import EPOCH, TOKENS_SEEN

AXES = MappingProxyType({"step": "", "epoch": EPOCH, "tokens": TOKENS_SEEN, "time": ELAPSED})
"""What a curve can be drawn along, and the curve that says where on it a step lies. Time is in seconds."""
PACE_STEPS = 30
SURE = 2.0
"""Standard deviations on either side: about 95 of 100 intervals hold what they claim to."""


@dataclass(frozen=True)
class Line:
    """A curve ready to be drawn: places on the axis and values, in order."""

    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class View:
    """The view of a curve: an axis of ``AXES``, smoothing in [0, 1), and the part of the run.

    ``part`` is a first and a last share of the steps, in [0, 1]; ``limit`` the number of points to draw.
    """

    axis: str = "step"
    smoothing: float = 0.0
    part: tuple[float, float] = (0.0, 1.0)
    limit: int = 400


def line(scalars: RunScalars, tag: str, view: View) -> Line:
    """One curve of a run as ``view`` wants it; empty when there is none."""
    steps, values = scalars.curve(tag)
    values = smoothed(values, view.smoothing)
    first, last = (round(share * (steps[-1] if steps else 0)) for share in view.part)
    start, end = bisect_left(steps, first), bisect_right(steps, last)
    kept, shown = decimate(steps[start:end], values[start:end], view.limit)
    return Line(_along(scalars, kept, view.axis), shown)


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """The exponential moving average with ``weight`` in [0, 1) on the past, without its bias to the start.

    Source: the debiased average of Kingma and Ba, 2015, as TensorBoard draws it.
    """
    if weight <= 0:
        return list(values)
    average, found, share = 0.0, [], 1.0
    for value in values:
        average = weight * average + (1 - weight) * value
        share *= weight
        found.append(average / (1 - share))
    return found


def _along(scalars: RunScalars, steps: Sequence[int], axis: str) -> list[float]:
    """Return the position of each step on the axis: the last known one before it, 0 before the first."""
    if not AXES[axis]:
        return [float(step) for step in steps]
    known, places = scalars.curve(AXES[axis])
    return [places[index - 1] if (index := bisect_right(known, step)) else 0.0 for step in steps]


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until a run has done its steps, and between which two figures that will lie."""

    seconds: float
    low: float
    high: float


def time_left(scalars: RunScalars) -> TimeLeft | None:
    """The time left at the pace of the latest steps, evaluations among them; None while that is not known.

    The interval counts both that the steps to come vary as these did and that their mean is only so well known.
    """
    steps, elapsed = scalars.curve(ELAPSED)
    total = scalars.latest.get("total_steps")
    if len(steps) < 3 or not isinstance(total, int) or total < steps[-1]:
        return None
    ends = zip(steps[-PACE_STEPS - 1 :], elapsed[-PACE_STEPS - 1 :], strict=True)
    paces = [(t1 - t0) / (s1 - s0) for (s0, t0), (s1, t1) in pairwise(ends) if s1 > s0]
    if not paces:
        return None
    left = total - steps[-1]
    mean, spread = statistics.fmean(paces), statistics.pstdev(paces)
    doubt = SURE * spread * math.sqrt(left + left * left / len(paces))
    return TimeLeft(mean * left, max(0.0, mean * left - doubt), mean * left + doubt)
