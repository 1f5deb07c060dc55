"""Draw runs as cards, and a placeholder where there is nothing yet."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app.views.status_face import draw_badge, face_of
from app.views.text import ago, figure, plain, title_of
from backend.manager.run_summary import RunSummary

RUN_PAGE = "pages/run.py"


def draw_runs(runs: Sequence[RunSummary]) -> None:
    """Draw runs as cards, up to three in a row."""
    with st.grid(3, min_column_width=250):
        for run in runs:
            draw_run(run)


def draw_run(run: RunSummary) -> None:
    """Draw one run as a card: a link to it, its state, progress and losses."""
    face = face_of(run.status, run.reason, run.damage)
    with st.container(border=True, gap="xsmall", height="stretch"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            title = plain(title_of(run.id, run.labels.name), 40)
            st.page_link(RUN_PAGE, label=f"**{title}**", query_params={"run": run.id}, width="content")
            draw_badge(face)
        if run.total_steps and run.step < run.total_steps:
            st.progress(min(1.0, run.step / run.total_steps))
        for facts in (_reached(run), _made_of(run)):
            if facts:
                st.caption(" · ".join(facts))


def _reached(run: RunSummary) -> list[str]:
    steps = f"step {run.step:,} of {run.total_steps:,}" if run.total_steps else ""
    loss = f"loss {figure(run.loss)}" if run.loss is not None else ""
    held_out = f"held\u2011out {figure(run.eval_loss)}" if run.eval_loss is not None else ""
    return [
        part.replace(" ", "\u00a0") for part in (steps, loss, held_out) if part
    ]  # wrap only between parts


def _made_of(run: RunSummary) -> list[str]:
    tags = plain(" ".join(f"#{tag}" for tag in run.labels.tags), 60)
    name = plain(run.model.rpartition("/")[2], 40)
    method = run.method if run.objective == "sft" else f"{run.objective.upper()} · {run.method}"
    return [part for part in (name, plain(method, 40), ago(run.created), tags) if part]


_FORK = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 220 120" width="220" height="120" fill="none"
 stroke="#7d8896" stroke-width="3" stroke-linecap="round">
<path d="M98 14v38a12 12 0 0 0 24 0V14M110 64v42" stroke="#12808b"/>
<path d="M80 24q-8 14 0 28M64 18q-12 20 0 40M48 12q-16 26 0 52" opacity=".6"/>
<path d="M140 24q8 14 0 28M156 18q12 20 0 40M172 12q16 26 0 52" opacity=".6"/></svg>"""


def draw_nothing_yet(title: str, advice: str) -> None:
    """Draw the placeholder of an empty page: a picture, a title and advice. Both are Markdown, never data."""
    with st.container(border=True, horizontal_alignment="center", gap="xsmall"):
        st.image(_FORK, width=220, alt="A tuning fork that sounds")
        st.markdown(f"**{title}**", text_alignment="center")
        st.caption(advice, text_alignment="center")
