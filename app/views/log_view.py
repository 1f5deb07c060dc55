"""Draw the end of a log, and the explanation of what happened to a run."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app.phrases import what_to_do, without_marks
from app.views.table import draw_table
from app.views.text import figure, in_local_time, persons_zone, plain
from backend.manager.explain import Explanation

_FITTING_LINES = 18


def draw_log(lines: Sequence[str], *, gap: bool = False) -> None:
    """Draw the last lines of a log as plain text."""
    if not lines:
        st.caption("The log is empty. A run that trains in a terminal prints there.")
        return
    if gap:
        st.caption("Older lines are in the file.")
    fits = len(lines) <= _FITTING_LINES
    st.code("\n".join(lines), language=None, wrap_lines=True, height="content" if fits else 420)


def draw_explanation(explanation: Explanation, command: str) -> None:
    """Draw how a run ended and what to do; ``command`` does that, or is ""."""
    with st.container(border=True):
        findings, moments = in_local_time("\n".join(explanation.findings), persons_zone())
        exact = f"Times are in your time zone. As recorded: {', '.join(moments)}" if moments else None
        st.markdown("**What happened**", help=exact)
        st.markdown("\n".join(f"- {plain(words, 400)}" for words in findings.splitlines()))
        st.markdown("**What to do**")
        st.markdown("\n".join(f"- {plain(words, 400)}" for words in _advice(explanation)))
        _draw_command(command)
        if explanation.last_steps:
            with st.expander("The last steps"):
                draw_table(_steps(explanation))


def draw_harm(explanation: Explanation, command: str) -> None:
    """Draw the warning that a model is worse than the untrained one, and ``command``, which mends that, or ""."""
    st.warning(plain(f"{explanation.findings[0]} {explanation.advice[-1]}", 800), icon=":material/warning:")
    _draw_command(command)


def _draw_command(command: str) -> None:
    if command:
        st.caption("From a command line")
        st.code(command, language=None, wrap_lines=True)


def _advice(explanation: Explanation) -> list[str]:
    step = what_to_do("", explanation.next_step, explanation.run)
    return [*map(without_marks, explanation.advice), *([step] if step else [])]


def _steps(explanation: Explanation) -> list[dict[str, str]]:
    return [
        {
            "step": f"{step.step:,}",
            "loss": figure(step.loss),
            "gradient norm": figure(step.grad_norm),
            "learning rate": figure(step.learning_rate),
            "rows": ", ".join(step.rows[:4]),
        }
        for step in explanation.last_steps
    ]
