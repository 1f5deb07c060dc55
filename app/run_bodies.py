"""The views of a run's page below its head: curves, samples, machine, log and details."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from types import MappingProxyType

import streamlit as st

from app.run_buttons import Chosen
from app.views.charts import COLOURS, draw_lines
from app.views.curve_controls import CURVES, NOISY, PREFERENCES, SAMPLED, draw_curve_controls
from app.views.log_view import draw_explanation, draw_log
from app.views.samples import draw_samples, panels
from app.views.text import plain
from backend.errors import RunError
from backend.manager.curves import Line, View
from backend.manager.log_view import LogTail
from backend.manager.preference_signs import preference_signs
from backend.run.metrics import (
    EVAL_LOSS,
    TRAIN_LOSS,
)
from backend.run.reports import RunStatus
from backend.utils.jsonl_utils import last_records

NEWLINE = b"\n"
SHOWN_LINES = 300
SMALL_POINTS = 120
SHOWN_SAMPLES = 720
_TROUBLED = {RunStatus.FAILED, RunStatus.INTERRUPTED}


def draw_curves(chosen: Chosen) -> None:
    """Draw the losses large and all other curves small."""
    with chosen.reading.fresh() as scalars:
        begun = scalars.latest.keys() & {TRAIN_LOSS, EVAL_LOSS}
    if not begun:
        st.caption("The first curve appears with the first step.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        view, log = draw_curve_controls()
    raw, line = replace(view, smoothing=0.0), chosen.reading.line
    loss = {"training": line(TRAIN_LOSS, view), "held-out": line(EVAL_LOSS, raw)}
    faint = {"training": line(TRAIN_LOSS, raw)} if view.smoothing else {}
    # of rewarded answers the loss is about 0 whatever happens: the reward is what counts
    _draw_charts(chosen, view, SAMPLED)
    # Drawn before the others: the browser shows it while those are computed.
    draw_lines(
        {name: one for name, one in loss.items() if one.x},
        title="Loss",
        axis=view.axis,
        key="loss",
        log=log,
        height=320,
        faint=faint,
    )
    _draw_preferences(chosen, view)
    small = {
        title: line(tag, replace(view, smoothing=view.smoothing if tag in NOISY else 0.0, limit=SMALL_POINTS))
        for tag, title in CURVES.items()
        if not tag.endswith("/loss")
    }
    shown = {title: one for title, one in small.items() if one.x}
    columns = st.columns(2)
    for number, (title, one) in enumerate(shown.items()):
        with columns[number % 2]:
            colour = COLOURS[(2 + number) % len(COLOURS)]
            draw_lines({title: one}, title=title, axis=view.axis, key=title, height=170, colours=(colour,))


def _draw_preferences(chosen: Chosen, view: View) -> None:
    """Draw what a preference run measures, with sentences on what it means; nothing for other runs."""
    for sentence in preference_signs(chosen.run.metrics().records):
        st.caption(f":material/lightbulb: {plain(sentence, 400)}")
    _draw_charts(chosen, view, PREFERENCES)


def _draw_charts(chosen: Chosen, view: View, wanted: Mapping[str, Mapping[str, str]]) -> None:
    """Draw the charts of which the run has measured a line, the first of them large."""
    line, raw = chosen.reading.line, replace(view, smoothing=0.0)
    charts = {}
    for title, tags in wanted.items():
        lines = {name: line(tag, view if tag.startswith("train/") else raw) for name, tag in tags.items()}
        charts[title] = {name: one for name, one in lines.items() if one.x}
    charts = {title: lines for title, lines in charts.items() if lines}
    if not charts:
        return
    (first, rewards), *others = charts.items()
    draw_lines(rewards, title=first, axis=view.axis, key=first, height=320)
    columns = st.columns(2)
    for number, (title, lines) in enumerate(others):
        with columns[number % 2]:
            draw_lines(lines, title=title, axis=view.axis, key=title, height=250)


def draw_panel(chosen: Chosen) -> None:
    """Draw the answers to the fixed panel of held-out rows."""
    draw_samples(panels(chosen.run.samples().records))


def draw_system(chosen: Chosen) -> None:
    """Draw what the machine did in the last hour of the run."""
    newest = list(islice(last_records(chosen.run.system_file), SHOWN_SAMPLES))[::-1]
    if not newest:
        st.caption("The machine is measured every five seconds while a run is trained in the background.")
        return
    columns = st.columns(2)
    for number, (title, values) in enumerate(_machine_curves(newest).items()):
        places = [5.0 * index for index in range(len(values))]
        with columns[number % 2]:
            draw_lines(
                {title: Line(places, values)},
                title=title,
                axis="time",
                key=f"machine-{title}",
                height=170,
                colours=(COLOURS[number % len(COLOURS)],),
            )


def _machine_curves(records: list[dict[str, object]]) -> Mapping[str, list[float]]:
    """Return the curves in the machine's samples, in percent and GiB."""

    def column(name: str, unit: float) -> list[float]:
        found = (record.get(name) for record in records)
        return [value / unit for value in found if isinstance(value, int | float)]

    curves = {
        "Processor, percent": column("cpu_percent", 1.0),
        "Memory in use, GiB": column("memory_used_bytes", 2.0**30),
        "Disk free, GiB": column("disk_free_bytes", 2.0**30),
    }
    for record in records:
        for gpu in record.get("gpus") or []:  # type: ignore[attr-defined]
            curves.setdefault(f"GPU {gpu['index']}, percent", []).append(float(gpu["busy_percent"]))
            used = float(gpu["memory_used_bytes"]) / 2.0**30
            curves.setdefault(f"GPU {gpu['index']} memory, GiB", []).append(used)
    return {title: values for title, values in curves.items() if values}


def draw_log_end(chosen: Chosen) -> None:
    """Draw the end of the log, and above it an explanation if the run failed or did harm."""
    if chosen.state.status in _TROUBLED or chosen.did_harm:
        shown_above = chosen.did_harm  # the warning at the top of the page has the command
        draw_explanation(chosen.explanation, "" if shown_above else chosen.way_back)
    news = LogTail(chosen.run.train_log).poll()
    draw_log(news.lines[-SHOWN_LINES:], gap=len(news.lines) > SHOWN_LINES)


def draw_details(chosen: Chosen) -> None:
    """Draw the configuration, the equivalent command, and the paths of the run."""
    run = chosen.run
    st.caption("The same run again, from a command line")
    st.code(f"tunesmith train {shlex.quote(str(run.config))}", language=None, wrap_lines=True)
    st.caption("Its folder")
    st.code(str(run.path), language=None, wrap_lines=True)
    if run.rejected_file.is_file():
        kept = run.rejected_file.read_bytes()
        st.caption(f"Rows that could not be read and were not trained: {kept.count(NEWLINE):,}")
        st.download_button(
            "Save them, with place and reason", kept, f"{run.id}-rejected.jsonl", icon=":material/download:"
        )
    if chosen.summary.labels.note:
        st.caption("Note")
        st.text(chosen.summary.labels.note)
    st.caption("Its whole configuration, as it was resolved; it never changes")
    try:
        st.code(run.read_config_text(), language=None)
    except RunError as error:
        st.text(error.message)


BODIES: Mapping[str, Callable[[Chosen], None]] = MappingProxyType(
    {
        "Curves": draw_curves,
        "Samples": draw_panel,
        "Machine": draw_system,
        "Log": draw_log_end,
        "Details": draw_details,
    }
)
