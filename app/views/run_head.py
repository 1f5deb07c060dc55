"""Draw the top of a run's page: progress, time left and latest figures."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app.views.text import figure, rough
from backend.manager.curves import TimeLeft
from backend.run.metrics import (
    BITS_PER_BYTE,
    EPOCH,
    EVAL_LOSS,
    EXACT_MATCH,
    FORGETTING_LOSS,
    LEARNING_RATE,
    TOKENS_PER_SECOND,
    TRAIN_LOSS,
)
from backend.run.reports import RunState, RunStatus


def draw_progress(state: RunState, step: int, total: int, left: TimeLeft | None) -> None:
    """Draw a progress bar with the steps and the time left in words."""
    if not total:
        if state.is_live:
            st.progress(0.0, text="Getting ready: model, data and a first measurement.")
        return
    words = f"Step {step:,} of {total:,} · {step / total:.0%}"
    if left and state.status is RunStatus.RUNNING:
        words += f" · {left_words(left)}"
    st.progress(min(1.0, step / total), text=words)


def left_words(left: TimeLeft) -> str:
    """Return ``about 12 min left (10 to 14 min)``, without the interval if both ends read the same."""
    low, middle, high = rough(left.low), rough(left.seconds), rough(left.high)
    return f"about {middle} left" + (f" ({low} to {high})" if low != high else "")


def draw_latest(latest: Mapping[str, object]) -> None:
    """Draw the latest losses, exact match, speed, learning rate and epoch, if there are any."""
    known = [
        (
            "Loss",
            TRAIN_LOSS,
            4,
            (
                "Of the latest step: the mean surprise over the trained tokens, in nats, 0 is perfect; for "
                "preferences how undecided the model is between better and worse answers: dpo starts at 0.693."
            ),
        ),
        ("Held-out loss", EVAL_LOSS, 4, "The same on rows that are never trained on: the one to watch."),
        (
            "Bits per byte",
            BITS_PER_BYTE,
            4,
            "The held-out loss per byte of text, in bits: comparable between models with different tokenizers.",
        ),
        (
            "General texts",
            FORGETTING_LOSS,
            4,
            "The loss on general questions and texts that ship with Tunesmith: what is forgotten makes it rise.",
        ),
        ("Exact match", EXACT_MATCH, 3, "Share of the scored held-out rows answered word for word."),
        (
            "Tokens/s",
            TOKENS_PER_SECOND,
            4,
            "Tokens read and trained per second of the latest step.",
        ),
        ("Learning rate", LEARNING_RATE, 3, "How far a step may go; it warms up, then falls."),
        ("Epoch", EPOCH, 3, "How often the training rows have been gone through."),
    ]
    shown = [(*one, value) for one in known if isinstance(value := latest.get(one[1]), int | float)]
    if not shown:
        return
    with st.container(horizontal=True, gap="small"):
        for label, tag, digits, words, value in shown:
            text = f"{value:.0%}" if tag == EXACT_MATCH else figure(float(value), digits)
            st.metric(label, text, help=words, border=True)
