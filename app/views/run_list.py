"""Draw the list of runs."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app.views.cards import draw_nothing_yet, draw_runs
from backend.manager.run_summary import RunSummary

PER_PAGE = 12


def draw_run_list(runs: Sequence[RunSummary]) -> None:
    """Draw the runs as cards, a dozen per page."""
    if not runs:
        draw_nothing_yet("No matching run", "Change the words or the status above.")
        return
    pages = -(-len(runs) // PER_PAGE)
    page = st.pagination(pages, key="runs_page") if pages > 1 else 1
    draw_runs(runs[(page - 1) * PER_PAGE : page * PER_PAGE])
