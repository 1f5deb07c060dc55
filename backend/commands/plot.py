"""Curves in a terminal, drawn with braille dots: two columns and four rows of dots a character."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BARS = "▁▂▃▄▅▆▇█"
_LABEL = 10


def curve_lines(
    steps: Sequence[float], values: Sequence[float], *, width: int, height: int, last_step: float = 0
) -> list[str]:
    """A curve as ``height`` lines of ``width`` characters with its range on the left and the steps below.

    The axis runs from 0 to ``last_step`` or further. Values that are not finite are left out; without
    any finite one there are no lines.
    """
    points = [(x, y) for x, y in zip(steps, values, strict=True) if math.isfinite(y)]
    if not points:
        return []
    columns = max(2, width - _LABEL - 1)
    right = max(points[-1][0], last_step, 1)
    low, high = min(y for _, y in points), max(y for _, y in points)
    cells = _cells(points, right, (low, high), columns, height)
    lines = ["".join(chr(_BRAILLE + cell) for cell in row) for row in cells]
    labels = ["" for _ in lines]
    labels[-1], labels[0] = f"{low:.4g}", f"{high:.4g}"
    drawn = [f"{label:>{_LABEL}}┤{line}" for label, line in zip(labels, lines, strict=True)]
    axis = "step 0"
    return [*drawn, " " * (_LABEL + 1) + axis + f"{right:,.0f}".rjust(max(0, columns - len(axis)))]


def _cells(
    points: Sequence[tuple[float, float]],
    right: float,
    y_range: tuple[float, float],
    columns: int,
    height: int,
) -> list[list[int]]:
    """Dot patterns, top line first; neighbouring points are joined by a straight line."""
    dots_wide, dots_high = 2 * columns - 1, 4 * height - 1
    cells = [[0] * columns for _ in range(height)]
    before: tuple[int, int] | None = None
    for x, y in points:
        across = round(x / right * dots_wide)
        share = (y_range[1] - y) / (y_range[1] - y_range[0]) if y_range[1] > y_range[0] else 0.5
        here = (across, round(share * dots_high))
        for column, row in _line(before or here, here):
            cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
        before = here
    return cells


def _line(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    count = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [
        (
            round(start[0] + (end[0] - start[0]) * part / count),
            round(start[1] + (end[1] - start[1]) * part / count),
        )
        for part in range(count + 1)
    ]


def sparkline(values: Sequence[float]) -> str:
    """The values as one line of small bars; one that is not finite leaves a gap."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] if math.isfinite(value) else " " for value in values)


def bar(share: float, width: int) -> str:
    """A bar as long as ``share`` (0 to 1) of ``width`` characters; anything above 0 shows."""
    eighths = max(round(share * width * 8), 1 if share > 0 else 0)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
