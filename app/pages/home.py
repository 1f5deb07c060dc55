"""Home page: three ways to begin, running, queued and recent runs, and the machine."""

from __future__ import annotations

import streamlit as st

from app.actions import show_errors
from app.example import example_config
from app.start import start_or_queue
from app.studio import studio
from app.views.cards import RUN_PAGE, draw_nothing_yet, draw_runs
from app.views.system import draw_machine
from backend.run.lifecycle import LIVE
from backend.run.reports import RunStatus
from backend.utils.machine_utils import available_cores

RECENT = 6
LOOK_SECONDS = 2.0


def page() -> None:
    """Draw the page."""
    st.title("Home")
    st.markdown("Teach a language model from your own examples, on this machine, and see the proof.")
    _ways_in()
    st.fragment(_runs, run_every=LOOK_SECONDS)()
    st.header("This machine")
    draw_machine(studio().sampler.sample(), available_cores())


def _ways_in() -> None:
    example, new, use = st.columns(3, border=True)
    with example:
        st.markdown("**Try the example**")
        st.caption("700 foods, 20 sections of a store, a small model that is already here. A few minutes.")
        if st.button(
            "Start the example", type="primary", icon=":material/play_arrow:", key="example", wrap=True
        ):
            with show_errors(), st.spinner("Starting …"):
                run = start_or_queue(studio(), example_config())
                st.switch_page(RUN_PAGE, query_params={"run": run.id})
    with new:
        st.markdown("**Train on your own data**")
        st.caption("A file of questions and answers, a model, and the settings that matter. All explained.")
        if st.button("New run", icon=":material/add_circle:", key="new"):
            st.switch_page("pages/new_run.py")
    with use:
        st.markdown("**Open a model**")
        st.caption("Talk to a tuned model, see it beside its base, ask how sure it is, or take it with you.")
        if st.button("Playground", icon=":material/chat:", key="open"):
            st.switch_page("pages/playground.py")


def _runs() -> None:
    """Draw running, queued and recent runs; drawn again every two seconds."""
    found = studio().runs.list()
    if not found:
        st.space("small")
        draw_nothing_yet("No runs yet", "Start the example above: it shows the whole way in a few minutes.")
        return
    running = [run for run in found if run.status in LIVE]
    waiting = [run for run in found if run.status is RunStatus.QUEUED]
    resting = [run for run in found if run not in running and run not in waiting]
    for title, group in (("Running", running), ("Queued", waiting), ("Recent", resting[:RECENT])):
        if group:
            st.header(title)
            draw_runs(group)
    st.page_link(RUN_PAGE, label=f"All {len(found):,} runs", icon=":material/list:")


page()
