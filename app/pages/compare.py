"""Compare page: overlaid curves of runs, their different settings, evaluations and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from app.actions import show_errors
from app.studio import reading, studio
from app.views.cards import draw_nothing_yet
from app.views.charts import COLOURS, draw_lines
from app.views.compare_tables import PREFERRED, draw_answers, draw_settings, evaluation_row
from app.views.curve_controls import COMPARED, NOISY, draw_curve_controls
from app.views.stacked_table import draw_stacked_table
from app.views.text import plain, title_of
from backend.manager.run_summary import RunSummary
from backend.run.folder import RunDir


def page() -> None:
    """Draw the page."""
    st.title("Compare")
    known = studio().runs.list(archived=True)
    if not known:
        draw_nothing_yet("Nothing to compare yet", "Train two runs, then see here what made the difference.")
        return
    runs = _choose(known)
    if not runs:
        st.caption("Choose runs above; two or more show what made the difference.")
        return
    _curves(runs)
    st.header("What came out")
    _evaluations(runs)
    st.header("What was set differently")
    if len(runs) > 1:
        _settings(runs)
    else:
        st.caption("Choose a second run above to see what made the difference.")
    st.header("How they answer")
    draw_answers({_name(run): RunDir(run.path).samples().records for run in runs})


def _name(run: RunSummary) -> str:
    return title_of(run.id, run.labels.name)


def _choose(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """Draw the choice of runs and return them; they are in the page's address, so that it can be shared."""
    known = {run.id: run for run in runs}
    named = [run for run in st.query_params.get_all("runs") if run in known]
    usual = [run.id for run in runs if run.step and not run.damage][:2]
    chosen = st.multiselect(
        "Runs",
        list(known),
        named or usual,
        format_func=lambda run: f"{_name(known[run])} · {known[run].status}",
        max_selections=len(COLOURS),
        key="compared",
    )
    if chosen != named:
        st.query_params["runs"] = chosen
    return [known[run] for run in chosen]


def _curves(runs: Sequence[RunSummary]) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        tag = st.selectbox(
            "Curve", list(COMPARED), format_func=COMPARED.__getitem__, key="compared_tag", width=180
        )
        view, log = draw_curve_controls("compared_")
    smoothing = view.smoothing if tag in NOISY else 0.0
    view = replace(view, smoothing=smoothing, limit=2 * view.limit // max(2, len(runs)))
    lines = {_name(run): reading(RunDir(run.path)).line(tag, view) for run in runs}
    draw_lines(lines, title=COMPARED[tag], axis=view.axis, key="compared_lines", log=log, height=360)


def _evaluations(runs: Sequence[RunSummary]) -> None:
    rows = []
    for run in runs:
        with reading(RunDir(run.path)).fresh() as scalars:
            rows.append(evaluation_row(_name(run), str(run.status), scalars))
    _say_if_losses_differ(runs)
    if all(run.objective == "sft" for run in runs):
        rows = [{name: value for name, value in row.items() if name != PREFERRED} for row in rows]
    draw_stacked_table(rows)


def _say_if_losses_differ(runs: Sequence[RunSummary]) -> None:
    """Say that the losses of different training methods do not compare, where there are such."""
    if len({run.objective for run in runs}) > 1:
        methods = ", ".join(f"{_name(run)} by {run.objective.upper()}" for run in runs)
        st.warning(
            f"These runs learned by different methods ({plain(methods, 400)}), and their losses measure "
            "different things: a lower one is not better. Compare their answers, or runs of one method.",
            icon=":material/balance:",
        )


def _settings(runs: Sequence[RunSummary]) -> None:
    with show_errors():
        settings = studio().runs.compare([str(run.path) for run in runs]).settings
        draw_settings(settings, [_name(run) for run in runs])
        if any(name.startswith("data.") or name == "seed" for name in settings):
            st.caption("Their data or seed differ, so they may have been scored on different rows.")


page()
