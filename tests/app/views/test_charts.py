"""Charts: what is sent to the browser, and the sentence for those who hear it."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pytest

from app.views.charts import COLOURS, describe
from backend.manager.curves import Line
from tests.app.views.drawing import drawn as drawn_alone


def drawn(lines: dict[str, Line], **options: Any) -> Any:
    """The chart as it is sent."""

    app = drawn_alone("charts.draw_lines", lines, title="Loss", key="chart", **({"axis": "step"} | options))
    (chart,) = app.get("vega_lite_chart")
    return chart.proto


def rows(chart: Any) -> list[dict[str, Any]]:
    (data,) = [chart.data.data] if chart.data.data else [one.data.data for one in chart.datasets]
    with pa.ipc.open_stream(io.BytesIO(data)) as stream:
        return stream.read_all().to_pylist()  # type: ignore[no-any-return]


CURVE = Line([1.0, 2.0, 3.0], [2.0, 1.0, 0.5])
LONG = Line([float(step) for step in range(40)], [1.0] * 40)


def test_every_point_is_there_once() -> None:
    found = rows(drawn({"training": CURVE}, faint={"training": CURVE}))
    assert [row["kind"] for row in found] == ["dots"] * 3 + ["faint"] * 3
    assert [row["y"] for row in found[:3]] == CURVE.y


def test_the_browser_sorts_points_only_where_there_are_two_kinds() -> None:
    alone = json.loads(drawn({"training": LONG}).spec)["layer"]
    both = json.loads(drawn({"training": LONG}, faint={"training": LONG}).spec)["layer"]
    assert [layer["transform"] for layer in alone] == [[], []]
    kinds = [layer["transform"][0]["filter"] for layer in both]
    assert kinds == ["datum.kind == 'faint'", "datum.kind != 'faint'", "datum.kind != 'faint'"]


def test_a_line_of_few_points_shows_each_of_them() -> None:
    chart = drawn({"training": LONG, "held-out": CURVE})
    assert {row["series"] for row in rows(chart) if row["kind"] == "dots"} == {"held-out"}
    dots = json.loads(chart.spec)["layer"][-1]
    assert (dots["transform"], dots["mark"]["type"]) == ([{"filter": "datum.kind == 'dots'"}], "point")


def test_points_are_pixels_and_no_elements_of_the_page() -> None:
    spec = json.loads(drawn({"training": CURVE}).spec)
    assert spec["usermeta"]["embedOptions"] == {"renderer": "canvas"}
    assert spec["config"]["aria"] is False


def test_a_log_scale_leaves_out_what_has_no_logarithm() -> None:
    chart = drawn({"a": Line([1.0, 2.0, 3.0], [-1.0, 0.0, 0.5])}, log=True)
    assert [row["y"] for row in rows(chart)] == [0.5]
    assert json.loads(chart.spec)["encoding"]["y"]["scale"]["type"] == "log"


def test_an_empty_chart_is_no_error() -> None:
    assert rows(drawn({})) == []


@pytest.mark.parametrize(
    ("last", "unit", "at"), [(200.0, "seconds", 200.0), (600.0, "minutes", 10.0), (7200.0, "hours", 2.0)]
)
def test_time_in_the_unit_that_fits(last: float, unit: str, at: float) -> None:
    chart = drawn({"a": Line([0.0, last], [1.0, 2.0])}, axis="time")
    assert rows(chart)[-1]["x"] == at
    assert json.loads(chart.spec)["encoding"]["x"]["title"] == unit


def test_each_name_has_its_colour_and_a_legend_only_with_company() -> None:
    alone = json.loads(drawn({"a": CURVE}).spec)["encoding"]["color"]
    both = json.loads(drawn({"a": CURVE, "b": CURVE}).spec)["encoding"]["color"]
    assert alone["legend"] is None
    assert both["scale"] == {"domain": ["a", "b"], "range": list(COLOURS[:2])}
    assert both["legend"]["symbolOpacity"] == 1


def test_a_name_that_looks_like_an_expression_is_a_name() -> None:
    name = "datum.x']; alert(1); //<b>"
    chart = drawn({name: CURVE, "b": CURVE})
    assert {row["series"] for row in rows(chart)} == {name, "b"}
    assert name not in json.dumps(json.loads(chart.spec)["layer"])


def test_in_words() -> None:
    assert describe({"training": CURVE, "none": Line([], [])}, "Loss", "steps") == (
        "Loss. training: from 2 to 0.5 between 1 and 3 steps."
    )
    assert describe({}, "Loss", "steps") == "Loss. Nothing yet."


def test_bars_stand_in_the_order_given_and_are_told_in_words() -> None:
    (chart,) = drawn_alone("charts.draw_bars", {"9–16": 2, "1–8": 1000}, "Tokens", "Rows").get(
        "vega_lite_chart"
    )
    assert rows(chart.proto) == [{"name": "9–16", "count": 2}, {"name": "1–8", "count": 1000}]
    assert json.loads(chart.proto.spec)["encoding"]["x"]["sort"] is None
    assert chart.proto.alt == "Rows by tokens. 9–16: 2; 1–8: 1,000."


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: the ratio of the relative luminances."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("background", ["#ffffff", "#11161c"])
@pytest.mark.parametrize("colour", COLOURS)
def test_lines_stand_out_from_both_backgrounds(colour: str, background: str) -> None:
    assert contrast(colour, background) >= 3
