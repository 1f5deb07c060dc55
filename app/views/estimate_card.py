"""What a run will cost, as a card: time, memory and disk, each with the bounds of its own past error."""

from __future__ import annotations

import streamlit as st

from app.views.text import plain, rough, size
from backend.estimator import Estimate, Interval


def draw_estimate(cost: Estimate) -> None:
    """The card of an estimate."""
    with st.container(border=True):
        st.markdown("**What it will cost**")
        time, memory, disk = st.columns(3)
        time.metric("Time", rough(cost.seconds.likely), help="From pressing start to the finished model.")
        time.caption(span(cost.seconds, in_time=True))
        memory.metric("Memory", size(round(cost.memory_bytes.likely)), help="At its highest.")
        memory.caption(span(cost.memory_bytes))
        disk.metric("Disk", size(round(cost.disk_bytes.likely)), help="Checkpoints, result and logs.")
        disk.caption(span(cost.disk_bytes))
        st.caption(
            f"{cost.steps:,} steps · {cost.tokens:,} tokens · {cost.trainable_parameters:,} trained parameters. "
            f"{plain(cost.basis, 200)}"
        )
        for problem in cost.problems:
            st.warning(plain(f"{problem.message} {problem.remedy}", 300), icon=":material/warning:")


def span(interval: Interval, *, in_time: bool = False) -> str:
    """The bounds of an interval in words."""
    low, high = (rough(each) if in_time else size(round(each)) for each in (interval.low, interval.high))
    return f"{low} to {high}"
