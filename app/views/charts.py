"""Draw curves and bars with Vega-Lite, which comes with Streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import streamlit as st

from app.views.table import arrow_table
from backend.manager.curves import Line

COLOURS = ("#12808b", "#c9681c", "#7a5cc4", "#2f8f4e", "#c2477f", "#4a7fc9", "#8d7a1f", "#a35244")
"""At least 3:1 on both backgrounds, and apart from one another for the colour-blind in their first four."""
LEGEND = {
    "orient": "top",
    "title": None,
    "labelLimit": 260,
    "symbolType": "stroke",
    "symbolStrokeWidth": 3,
    "symbolOpacity": 1,
}
_ON_CANVAS: Mapping[str, Any] = MappingProxyType(
    {"usermeta": {"embedOptions": {"renderer": "canvas"}}, "config": {"aria": False}}
)
"""Without this, every point is an element of the page with its own description; one ``alt`` text is better."""
_FEW_POINTS = 24
"""A line with no more points than this shows each of them, since nothing was measured in between."""
_TIME_UNITS = ((5400.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


def draw_lines(
    lines: Mapping[str, Line],
    *,
    title: str,
    axis: str,
    key: str,
    log: bool = False,
    height: int = 300,
    faint: Mapping[str, Line] | None = None,
    colours: Sequence[str] = COLOURS,
) -> None:
    """Draw a chart of ``lines`` by name; each may have a ``faint`` one behind it, such as itself unsmoothed.

    Drag to move along the axis, Shift and the wheel to zoom, double-click to reset.
    """
    factor, unit = _unit(axis, lines)
    records = [
        (x / factor, y, name, kind or ("line" if len(one.x) > _FEW_POINTS else "dots"))
        for kind, group in (("", lines), ("faint", faint or {}))
        for name, one in group.items()
        for x, y in zip(one.x, one.y, strict=True)
        if y > 0 or not log
    ]
    columns = list(zip(*records, strict=True)) or [(), (), (), ()]
    data = arrow_table(dict(zip(("x", "y", "series", "kind"), columns, strict=True)))
    spec = _spec(
        list(lines), title=title, unit=unit, log=log, height=height, colours=colours, faint=bool(faint)
    )
    if any(kind == "dots" for _, _, _, kind in records):
        dots = {"type": "point", "filled": True, "size": 36, "opacity": 1}
        spec["layer"].append({"transform": [{"filter": "datum.kind == 'dots'"}], "mark": dots})
    st.vega_lite_chart(data, spec, key=key, alt=describe(lines, title, unit, factor))


def draw_bars(bars: Mapping[str, int], along: str, up: str) -> None:
    """Draw a bar for each name, in the order given; ``along`` and ``up`` are the titles of the axes."""
    data = arrow_table({"name": list(bars), "count": list(bars.values())})
    x = {"field": "name", "type": "nominal", "title": along, "sort": None, "axis": {"labelAngle": 0}}
    y = {"field": "count", "type": "quantitative", "title": up}
    spec = {"height": 180, "mark": {"type": "bar", "color": COLOURS[0]}, "encoding": {"x": x, "y": y}}
    values = "; ".join(f"{name}: {count:,}" for name, count in bars.items())
    st.vega_lite_chart(data, spec, alt=f"{up} by {along.lower()}. {values}.")


def describe(lines: Mapping[str, Line], title: str, unit: str, factor: float = 1.0) -> str:
    """Return the chart in a sentence, for screen readers."""
    parts = [
        f"{name}: from {one.y[0]:.4g} to {one.y[-1]:.4g} between {one.x[0] / factor:.4g} and "
        f"{one.x[-1] / factor:.4g} {unit}"
        for name, one in lines.items()
        if one.y
    ]
    return f"{title}. {'; '.join(parts) or 'Nothing yet'}."


def _unit(axis: str, lines: Mapping[str, Line]) -> tuple[float, str]:
    """Return the divisor of the values on the axis, and their unit."""
    if axis != "time":
        return 1.0, axis if axis == "tokens" else f"{axis}s"
    longest = max((one.x[-1] for one in lines.values() if one.x), default=0.0)
    return next((factor, unit) for least, factor, unit in _TIME_UNITS if longest >= least)


def _spec(
    names: list[str], *, title: str, unit: str, log: bool, height: int, colours: Sequence[str], faint: bool
) -> dict[str, Any]:
    x: dict[str, Any] = {
        "field": "x",
        "type": "quantitative",
        "title": unit,
        "axis": {"grid": False, "tickCount": 6},
    }
    x["scale"] = {"nice": False}
    y: dict[str, Any] = {
        "field": "y",
        "type": "quantitative",
        "title": None,
        "axis": {"tickCount": 5, "format": ".4~g", "minExtent": 60},
    }
    y["scale"] = {"zero": False, "type": "log" if log else "linear"}
    series = {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": names, "range": list(colours[: len(names)])},
        "legend": LEGEND if len(names) > 1 else None,
    }
    tooltip = [
        {"field": "series", "title": "curve"},
        {"field": "x", "title": unit, "format": ",.6~g"},
        {"field": "y", "title": title.lower(), "format": ".5~g"},
    ]
    line = {"type": "line", "interpolate": "linear", "strokeJoin": "round"}
    zoom = {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.shiftKey]"}
    hover = {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"}
    solid = [{"filter": "datum.kind != 'faint'"}] if faint else []  # it is evaluated for every point
    layers: list[dict[str, Any]] = [
        {
            "transform": solid,
            "params": [{"name": "zoom", "select": zoom, "bind": "scales"}],
            "mark": {**line, "strokeWidth": 2},
        },
        {
            "transform": solid,
            "params": [{"name": "hover", "select": hover}],
            "mark": {"type": "point", "filled": True, "size": 60},
            "encoding": {
                "tooltip": tooltip,
                "opacity": {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0},
            },
        },
    ]
    if faint:
        behind = {
            "transform": [{"filter": "datum.kind == 'faint'"}],
            "mark": {**line, "strokeWidth": 1, "opacity": 0.28},
        }
        layers.insert(0, behind)
    return {
        **_ON_CANVAS,
        "title": {"text": title, "anchor": "start", "fontSize": 14, "offset": 8},
        "padding": {"right": 6},
        "height": height,
        "encoding": {"x": x, "y": y, "color": series},
        "layer": layers,
    }
