"""Draw runs side by side: different settings, evaluations with intervals, answers to the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from app.views.samples import panels
from app.views.stacked_table import draw_stacked_table
from app.views.text import figure
from backend.manager.scalars import RunScalars
from backend.run.metrics import ACCURACIES, EVAL_LOSS, EXACT_MATCH, TRAIN_LOSS, best_step
from backend.utils.interval_utils import score_interval

Row = dict[str, str]
PREFERRED = "prefers the better answer"
"""The column of preference methods."""


def draw_settings(settings: Mapping[str, Sequence[object]], names: Sequence[str]) -> None:
    """Draw a line for each setting that differs."""
    if not settings:
        st.caption("Their settings are the same.")
        return
    lines = [
        {"setting": setting, **{name: _setting(value) for name, value in zip(names, values, strict=True)}}
        for setting, values in settings.items()
    ]
    draw_stacked_table(lines)


def _setting(value: object) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def evaluation_row(name: str, status: str, scalars: RunScalars) -> Row:
    """Return one run's figures, its scores with a 95 % interval for the number of scored rows."""
    steps, losses = scalars.curve(EVAL_LOSS)
    by_step = dict(zip(steps, losses, strict=True))
    best = best_step(by_step)
    latest = scalars.latest
    score = score_words(_number(latest.get(EXACT_MATCH)), latest.get("scored_rows"))
    return {
        "run": name,
        "held-out loss": figure(losses[-1] if losses else None),
        "exact match (95 % interval)": score,
        PREFERRED: score_words(_number(latest.get(f"eval/{ACCURACIES}")), latest.get("rows")),
        "best held-out loss": f"{figure(by_step[best])} at step {best:,}" if best else "–",
        "training loss": figure(_number(latest.get(TRAIN_LOSS))),
        "steps": f"{latest.get('step', 0)} of {latest.get('total_steps', 0)}",
        "stands at": status,
    }


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def score_words(share: float | None, rows: object) -> str:
    """Return ``75 % (51 to 90 %) of 16 rows``, or a dash if nothing was scored."""
    if share is None or not isinstance(rows, int) or rows < 1:
        return "–"
    low, high = score_interval(round(share * rows), rows)
    return f"{share:.0%} ({100 * max(0.0, low):.0f} to {100 * min(1.0, high):.0f} %) of {rows:,} rows"


def draw_answers(samples: Mapping[str, Sequence[Mapping[str, object]]]) -> None:
    """Draw the newest answer of each run to each row of their panels, as plain text."""
    newest = {
        name: {row: found[-1] for row, found in panels(records).items()} for name, records in samples.items()
    }
    rows = list(dict.fromkeys(row for found in newest.values() for row in found))
    if not rows:
        st.caption("None of them has answered its panel yet.")
        return
    lines = []
    for row in rows:
        sample = next(found[row] for found in newest.values() if row in found)
        answers = {name: str(found.get(row, {}).get("generated", "–")) for name, found in newest.items()}
        question = {"asked": _end_of(sample.get("prompt")), "expected": str(sample.get("expected", ""))}
        lines.append(question | answers)
    draw_stacked_table(lines)


def _end_of(prompt: object) -> str:
    """Return the end of a prompt, where the question is."""
    text = str(prompt or "").strip()
    return text if len(text) <= 240 else f"… {text[-240:]}"
