"""Runs page: the run named in the address, live, or the list of all runs."""

from __future__ import annotations

import streamlit as st

from app.run_bodies import BODIES
from app.run_buttons import Chosen, draw_buttons
from app.studio import studio
from app.views.cards import draw_nothing_yet
from app.views.log_view import draw_harm
from app.views.run_head import draw_latest, draw_progress
from app.views.run_list import draw_run_list
from app.views.status_face import draw_state
from app.views.text import plain
from backend.errors import RunError
from backend.manager.curves import time_left
from backend.run.reports import RunStatus

LIVE_SECONDS, REST_SECONDS = 2.0, 10.0


def page() -> None:
    """Draw the page."""
    wanted = st.query_params.get("run", "")
    if not wanted:
        _all_runs()
        return
    try:
        chosen = Chosen.of(studio(), wanted)
    except RunError as error:
        st.title("Runs")
        st.warning(plain(error.message, 400), icon=":material/search_off:")
        st.page_link("pages/run.py", label="All runs", icon=":material/list:")
        return
    _one_run(chosen)


def _all_runs() -> None:
    st.title("Runs")
    if not studio().runs.list(archived=True):
        draw_nothing_yet("No runs yet", "Start the example from Home, or a run of your own from New run.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input("Search", key="runs_text", placeholder="Name, model, note …")
        kinds = ["", *RunStatus]
        kind = st.selectbox("Status", kinds, format_func=_kind_in_words, key="runs_status", width=180)
        archived = st.toggle("Archived too", key="runs_archived")
    status = RunStatus(kind) if kind else None
    draw_run_list(studio().runs.list(text=text, status=status, archived=archived))


def _kind_in_words(kind: str) -> str:
    return kind.capitalize() or "Any"


def _one_run(chosen: Chosen) -> None:
    st.page_link("pages/run.py", label="All runs", icon=":material/arrow_back:")
    st.title(plain(chosen.title, 80))
    draw_buttons(chosen)
    moving = chosen.state.is_live or chosen.state.status is RunStatus.QUEUED
    st.fragment(_live, run_every=LIVE_SECONDS if moving else REST_SECONDS)(chosen)


def _live(chosen: Chosen) -> None:
    """Draw the part of the page that changes, every two seconds while the run is active."""
    state = chosen.run.state()
    if state.status is not chosen.state.status:
        st.rerun()
    draw_state(chosen.run.id, state, advise=not chosen.did_harm)
    if chosen.did_harm:
        draw_harm(chosen.explanation, chosen.way_back)
    head = st.container()
    body = st.radio(
        "Show",
        list(BODIES),
        horizontal=True,
        key="show",
        bind="query-params",
        label_visibility="collapsed",
    )
    # Read only now, so that the browser already shows the rest: the curves of a long run take a moment.
    with chosen.reading.fresh() as scalars:
        latest, left = dict(scalars.latest), time_left(scalars)
    with head:
        draw_progress(state, _whole(latest.get("step")), _whole(latest.get("total_steps")), left)
        draw_latest(latest)
    BODIES[body](chosen)


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


page()
