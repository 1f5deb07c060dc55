"""Draw the estimated cost of a run: time, memory and disk, each with bounds from past errors."""

from __future__ import annotations

import streamlit as st

from app.phrases import without_marks
from app.views.text import plain, rough, size
from backend.manager.planning.estimator import Estimate, Interval


def draw_estimate(cost: Estimate) -> None:
    """Draw an estimate as a card."""
    with st.container(border=True):
        st.markdown("**What it will cost**")
        with st.container(gap="xsmall"):
            _line(
                "Time", rough(cost.seconds.likely), span(cost.seconds, in_time=True), "Until it is trained."
            )
            for label, amount, about in (
                ("Memory", cost.memory_bytes, "At its highest."),
                ("Disk", cost.disk_bytes, "Checkpoints, result and logs."),
            ):
                _line(label, size(round(amount.likely)), span(amount), about)
        st.caption(
            f"{cost.steps:,} steps · {cost.tokens:,} tokens · {cost.trainable_parameters:,} trained parameters. "
            f"{plain(cost.basis, 200)}"
        )
        for problem in cost.problems:
            st.warning(
                plain(f"{problem.message} {without_marks(problem.remedy)}", 300), icon=":material/warning:"
            )


def _line(label: str, value: str, bounds: str, about: str) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.markdown(label, help=about, width="content")
        st.markdown(f"**{value}** :small[({bounds})]", width="content")


def span(interval: Interval, *, in_time: bool = False) -> str:
    """Return the bounds of an interval in words, with a common unit only once."""
    low, high = (rough(each) if in_time else size(round(each)) for each in (interval.low, interval.high))
    (amount, *unit), (_, *other) = low.split(), high.split()
    return f"{amount if unit == other else low} to {high}"
