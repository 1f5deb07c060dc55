"""The top of a run's page: how far it is, how long it takes yet, and its figures."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app.views.system import draw_figures
from app.views.text import figure, rough
from backend.manager.curves import TimeLeft
from backend.reports import RunState, RunStatus


def draw_progress(state: RunState, step: int, total: int, left: TimeLeft | None) -> None:
    """The share that is done as a bar, with the steps and the time left in words."""
    if not total:
        if state.is_live:
            st.progress(0.0, text="Getting ready: model, data and a first measurement.")
        return
    words = f"Step {step:,} of {total:,} · {step / total:.0%}"
    if left and state.status is RunStatus.RUNNING:
        words += f" · {left_words(left)}"
    st.progress(min(1.0, step / total), text=words)


def left_words(left: TimeLeft) -> str:
    """``about 12 min left (10 to 14 min)``; no interval where both ends read the same."""
    low, middle, high = rough(left.low), rough(left.seconds), rough(left.high)
    return f"about {middle} left" + (f" ({low} to {high})" if low != high else "")


def draw_latest(latest: Mapping[str, object]) -> None:
    """The latest loss, held-out loss, exact match, speed, learning rate and epoch, as far as there are any."""
    known = [
        ("Loss", "train/loss", "nats a token, training", 4),
        ("Held-out loss", "eval/loss", "nats a token, unseen rows", 4),
        ("Exact match", "eval/exact_match", "of the scored rows", 3),
        ("Speed", "train/tokens_per_second", "tokens a second", 4),
        ("Learning rate", "train/learning_rate", "now", 3),
        ("Epoch", "train/epoch", "passes over the rows", 3),
    ]
    cells = [
        (label, f"{value:.0%}" if tag == "eval/exact_match" else figure(float(value), digits), remark)
        for label, tag, remark, digits in known
        if isinstance(value := latest.get(tag), int | float)
    ]
    if cells:
        draw_figures(cells)
