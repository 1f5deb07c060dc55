"""Draw loss curves as one small SVG picture, without a plotting library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from xml.sax.saxutils import escape

from backend.run.metrics import EVAL_LOSS, TRAIN_LOSS

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 720, 320, 60, 30, 16, 42
_COLOURS = ("#7a869a", "#c2410c", "#0f766e", "#6d28d9")
_TICKS = 5


def read_curves(lines: Iterable[Mapping[str, object]]) -> dict[str, list[tuple[float, float]]]:
    """Return the finite (step, nats) points of training and held-out loss from the lines of ``metrics.jsonl``."""
    curves: dict[str, list[tuple[float, float]]] = {"training loss": [], "held-out loss": []}
    names = {TRAIN_LOSS: "training loss", EVAL_LOSS: "held-out loss"}
    for line in lines:
        for key, name in names.items():
            value, step = line.get(key), line.get("step")
            if isinstance(value, int | float) and isinstance(step, int | float) and abs(value) < float("inf"):
                curves[name].append((float(step), float(value)))
    return {name: points for name, points in curves.items() if points}


def draw_curves(curves: Mapping[str, Points], *, title: str) -> str:
    """Return an SVG document with every curve in one frame; axes start at zero.

    Raises ValueError when there is no point to draw.
    """
    points = [point for curve in curves.values() for point in curve]
    if not points:
        raise ValueError("there is no point to draw")
    right = max(step for step, _ in points) or 1.0
    top = max(value for _, value in points) or 1.0

    def place(step: float, value: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / right
        y = _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / top
        return f"{x:.1f},{y:.1f}"

    font = 'font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" {font}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        *_grid(right, top),
    ]
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        line = " ".join(place(*point) for point in curve)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts.append(f'<text x="{_LEFT + 150 * number}" y="18" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _grid(right: float, top: float) -> list[str]:
    """Return the SVG elements of the grid lines and the numbers of both axes."""
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    parts = []
    for tick in range(_TICKS + 1):
        y = _TOP + inner_height * (1 - tick / _TICKS)
        x = _LEFT + inner_width * tick / _TICKS
        parts += [
            f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#e5e7eb"/>',
            _number(_LEFT - 6, y + 4, "end", f"{top * tick / _TICKS:.2f}"),
            _number(x, _HEIGHT - 22, "middle", f"{right * tick / _TICKS:.0f}"),
        ]
    return [*parts, _number(_WIDTH / 2, _HEIGHT - 6, "middle", "step")]


def _number(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#374151">{text}</text>'
