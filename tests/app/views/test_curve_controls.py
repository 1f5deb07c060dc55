"""How to look at curves: app/views/curve_controls.py."""

from __future__ import annotations

from itertools import cycle

import pytest
from streamlit.testing.v1 import AppTest

from app.views.curve_controls import PARTS, SMOOTHING


def shown() -> AppTest:
    def script() -> None:
        import streamlit as st

        from app.views.curve_controls import draw_curve_controls

        view, log = draw_curve_controls("x_")
        st.text(f"{view.axis} {view.smoothing} {view.part} {log}")

    return AppTest.from_function(script).run(timeout=30)


def test_to_begin_with() -> None:
    assert shown().text[0].value == "step 0.6 (0.0, 1.0) False"


@pytest.mark.parametrize(("part", "smoothing"), list(zip(PARTS, cycle(SMOOTHING), strict=False)))
def test_what_is_chosen_is_what_is_drawn(smoothing: str, part: str) -> None:
    app = shown()
    app.selectbox(key="x_smoothing").set_value(smoothing)
    app.selectbox(key="x_part").set_value(part)
    app.selectbox(key="x_axis").set_value("time")
    app.toggle(key="x_log").set_value(True).run()
    assert app.text[0].value == f"time {SMOOTHING[smoothing]} {PARTS[part]} True"
