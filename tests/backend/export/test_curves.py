"""Curves as SVG: backend/export/curves.py."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.export.curves import draw_curves, read_curves

LINES: list[dict[str, object]] = [
    {"kind": "eval", "step": 0, "eval/loss": 2.0},
    {"kind": "train", "step": 1, "train/loss": 3.0},
    {"kind": "train", "step": 2, "train/loss": float("nan")},
    {"kind": "train", "step": 3, "train/loss": None},
    {"kind": "train", "step": 4, "train/loss": 1.0},
]


def test_curves_are_read_without_what_is_not_finite() -> None:
    assert read_curves(LINES) == {"training loss": [(1.0, 3.0), (4.0, 1.0)], "held-out loss": [(0.0, 2.0)]}
    assert read_curves([]) == {}


def test_a_point_lies_where_its_numbers_say() -> None:
    picture = draw_curves({"loss": [(0.0, 4.0), (10.0, 0.0)]}, title="a & b")
    root = ElementTree.fromstring(picture)  # noqa: S314 - our own picture
    (line,) = root.findall("{*}polyline")
    assert line.get("points") == "60.0,30.0 704.0,278.0"
    assert root.findtext("{*}title") == "a & b"


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="no point"):
        draw_curves({"loss": []}, title="x")


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=20))
def test_every_point_lies_inside_the_frame(points: list[tuple[float, float]]) -> None:
    (drawn,) = re.findall(r'points="([^"]*)"', draw_curves({"loss": points}, title="x"))
    places = [tuple(map(float, pair.split(","))) for pair in drawn.split()]
    assert len(places) == len(points)
    assert all(60 <= x <= 704 and 30 <= y <= 278 for x, y in places)
