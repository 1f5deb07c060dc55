"""Draw the controls for curves. They are lists instead of sliders, for keyboards and screen readers."""

from __future__ import annotations

from types import MappingProxyType

import streamlit as st

from backend.manager.curves import AXES, View
from backend.run.metrics import (
    ACCURACIES,
    BITS_PER_BYTE,
    CLIPPED,
    ENTROPY,
    EVAL_LOSS,
    EXACT_MATCH,
    FLAT_GROUPS,
    FORGETTING_LOSS,
    GRAD_NORM,
    KD_LOSS,
    KL,
    LEARNING_RATE,
    MARGINS,
    MEAN_LENGTH,
    NLL_LOSS,
    REWARD,
    REWARDS_CHOSEN,
    REWARDS_REJECTED,
    TOKENS_PER_SECOND,
    TRAIN_LOSS,
)

SMOOTHING = MappingProxyType({"None": 0.0, "Light": 0.6, "Strong": 0.9, "Very strong": 0.98})
PARTS = MappingProxyType(
    {
        "Whole run": (0.0, 1.0),
        "Second half": (0.5, 1.0),
        "Last quarter": (0.75, 1.0),
        "Last tenth": (0.9, 1.0),
        "First tenth": (0.0, 0.1),
    }
)
CURVES = MappingProxyType(
    {
        EVAL_LOSS: "Held-out loss",
        TRAIN_LOSS: "Training loss",
        LEARNING_RATE: "Learning rate",
        GRAD_NORM: "Gradient norm",
        TOKENS_PER_SECOND: "Tokens a second",
        EXACT_MATCH: "Exact match",
        BITS_PER_BYTE: "Bits per byte",
        FORGETTING_LOSS: "Loss on general texts",
        NLL_LOSS: "Loss on the answers themselves",
        KD_LOSS: "Divergence from the teacher",
    }
)
"""The curves that the pages draw, by their tag in ``metrics.jsonl``."""
PREFERENCES = MappingProxyType(
    {
        "Rewards": {
            "better": f"train/{REWARDS_CHOSEN}",
            "worse": f"train/{REWARDS_REJECTED}",
            "better, held out": f"eval/{REWARDS_CHOSEN}",
            "worse, held out": f"eval/{REWARDS_REJECTED}",
        },
        "Share that prefers the better answer": {
            "training": f"train/{ACCURACIES}",
            "held-out": f"eval/{ACCURACIES}",
        },
        "Margin between the rewards": {"training": f"train/{MARGINS}", "held-out": f"eval/{MARGINS}"},
        "KL: how far from the model before training": {"training": f"train/{KL}", "held-out": f"eval/{KL}"},
    }
)
"""The charts of a preference run: the lines of each by name, with their tags."""
SAMPLED = MappingProxyType(
    {
        "Reward": {"training": f"train/{REWARD}", "held-out": f"eval/{REWARD}"},
        "Share of questions whose answers all earn the same": {"training": f"train/{FLAT_GROUPS}"},
        "Entropy in nats a token": {"training": f"train/{ENTROPY}"},
        "Tokens of an answer, on average": {"training": f"train/{MEAN_LENGTH}"},
        "Share of answers that reach the longest allowed": {"training": f"train/{CLIPPED}"},
    }
)
"""The charts of a run that is rewarded for its answers: the lines of each by name, with their tags."""
COMPARED = MappingProxyType(
    {
        **CURVES,
        f"train/{REWARD}": "Reward",
        f"eval/{REWARD}": "Held-out reward",
        f"eval/{ACCURACIES}": "Held-out preference accuracy",
        f"eval/{MARGINS}": "Held-out margin",
    }
)
"""The curves in which runs are compared, by their tag."""
NOISY = frozenset({TRAIN_LOSS, GRAD_NORM, TOKENS_PER_SECOND})
"""Curves that are smoothed; the others have few points or no noise."""


def draw_curve_controls(prefix: str = "") -> tuple[View, bool]:
    """Draw the controls; return the view and True for a log scale. ``prefix`` tells the pages' widgets apart.

    The caller draws them inside a row, beside its own controls.
    """
    axis = st.selectbox("Along", list(AXES), format_func=str.capitalize, key=f"{prefix}axis", width=130)
    smoothing = st.selectbox("Smoothing", list(SMOOTHING), index=1, key=f"{prefix}smoothing", width=150)
    part = st.selectbox("Part", list(PARTS), key=f"{prefix}part", width=160)
    log = st.toggle("Log scale", key=f"{prefix}log")
    return View(axis, SMOOTHING[smoothing], PARTS[part]), log
