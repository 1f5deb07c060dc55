"""The buttons of a run's page, and the dialogs that ask before acting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self

import streamlit as st

from app.actions import show_errors, stop_soon
from app.fingerprints import fingerprint
from app.phrases import command
from app.studio import Reading, Studio, reading
from app.views.text import plain, size, title_of
from backend.errors import RunError
from backend.manager import process_manager
from backend.manager.explain import Explanation, explain
from backend.manager.queue_watch import move_on
from backend.manager.run_summary import RunSummary, summarise, what_goes
from backend.manager.system_manager import folder_bytes
from backend.run.folder import RunDir
from backend.run.lifecycle import TRANSITIONS, Event
from backend.run.reports import RunState, RunStatus
from backend.utils.file_utils import UnsafeNameError, safe_join

RUN_PAGE = "pages/run.py"
_ASKED = "asked"


@dataclass(frozen=True)
class Chosen:
    """The run of a page, with its state at the time the page was drawn."""

    studio: Studio
    run: RunDir
    state: RunState
    summary: RunSummary
    reading: Reading

    @property
    def title(self) -> str:
        """The name of the run, or its id without the date."""
        return title_of(self.run.id, self.summary.labels.name)

    @property
    def explanation(self) -> Explanation:
        """The explanation of what happened to the run."""
        files = (self.run.metrics_file, self.run.flight_file, self.run.system_file)
        return _explanation(str(self.run.path), *(fingerprint(str(file)) for file in files), self.state)

    @property
    def did_harm(self) -> bool:
        """True if the run has ended and its model is worse than the untrained one."""
        active = self.state.is_live or self.state.status is RunStatus.QUEUED
        return not active and self.explanation.did_harm

    @property
    def way_back(self) -> str:
        """The command that branches off or starts again, if that helps; else ""."""
        return command(self.run, self.explanation)

    @classmethod
    def of(cls, studio: Studio, name: str) -> Self:
        """Return the run with exactly this id under the studio's root. Raises RunError."""
        try:
            run = RunDir(safe_join(studio.runs.root, name))
            found = run.exists()
        except (UnsafeNameError, OSError):
            found = False
        if not found:
            raise RunError(f"There is no run {name!r} here.", remedy="Choose another.", code="no-such-run")
        return cls(studio, run, run.state(), summarise(run), reading(run))


@st.cache_resource(show_spinner=False, max_entries=64)
def _explanation(path: str, *versions: object) -> Explanation:  # noqa: ARG001 - versions are part of the cache key
    """Return the explanation of the run in ``path``, computed once until one of ``versions`` changes."""
    return explain(RunDir(Path(path)))


def draw_buttons(chosen: Chosen) -> None:
    """Draw the buttons that apply to the run now, and the dialog of the one that was pressed."""
    status = chosen.state.status
    offered = {
        "stop": ("Stop", "stop_circle", (status, Event.STOP) in TRANSITIONS),
        "pause": ("Pause", "pause_circle", (status, Event.STOP) in TRANSITIONS),
        "start": (_start_word(status), "play_circle", (status, Event.START) in TRANSITIONS),
        "queue": ("Queue", "queue", (status, Event.QUEUE) in TRANSITIONS),
        "tensorboard": ("TensorBoard", "bar_chart", chosen.run.tensorboard.is_dir()),
        "labels": ("Labels", "label", True),
        "delete": ("Delete", "delete", (status, Event.DELETE) in TRANSITIONS),
    }
    with st.container(horizontal=True, gap="small"):
        if status is RunStatus.FINISHED and chosen.run.result_folder():
            _next_steps(chosen)
        for name, (label, icon, possible) in offered.items():
            if possible:
                st.button(
                    label,
                    icon=f":material/{icon}:",
                    key=name,
                    type="primary" if name == "start" else "tertiary" if name == "delete" else "secondary",
                    disabled=status is RunStatus.STOPPING and name in {"stop", "pause"},
                    on_click=_ask,
                    args=(name, chosen.run.id),
                )
    name, run = st.session_state.get(_ASKED, ("", ""))
    if run == chosen.run.id and offered[name][2]:
        _QUESTIONS[name](chosen)
    else:
        _forget()


def _next_steps(chosen: Chosen) -> None:
    """Draw the buttons to other pages for a trained model; none is highlighted if the training did harm."""
    for label, icon, page, named in (
        ("Talk to it", "chat", "playground", "run"),
        ("Export", "ios_share", "export", "run"),
        ("Compare", "compare_arrows", "compare", "runs"),
    ):
        first = page == "playground" and not chosen.did_harm
        kind: Literal["primary", "secondary"] = "primary" if first else "secondary"
        if st.button(label, icon=f":material/{icon}:", key=page, type=kind):
            st.switch_page(f"pages/{page}.py", query_params={named: chosen.run.id})


def _start_word(status: RunStatus) -> str:
    return "Start" if status in {RunStatus.CREATED, RunStatus.QUEUED} else "Resume"


def _ask(name: str, run: str) -> None:
    """Remember which dialog is open, so that it stays open while the page is drawn again."""
    st.session_state[_ASKED] = (name, run)


def _forget() -> None:
    st.session_state.pop(_ASKED, None)


def _queue(chosen: Chosen) -> None:
    _forget()
    with show_errors():
        chosen.studio.queue.enqueue(chosen.run)
        move_on(chosen.studio.queue)
        st.rerun()


@st.dialog("Stop this run?", icon=":material/stop_circle:", on_dismiss=_forget)
def ask_to_stop(chosen: Chosen) -> None:
    """Draw the dialog that stops a run after it has saved."""
    _say_what_stays(chosen, "It can be resumed from there, bit for bit as if it had never stopped.")
    if _confirmed("Save and stop", "Keep training"):
        stop_soon(chosen.run, "stop-requested")
        _done()


@st.dialog("Pause this run?", icon=":material/pause_circle:", on_dismiss=_forget)
def ask_to_pause(chosen: Chosen) -> None:
    """Draw the dialog that pauses a run after it has saved."""
    _say_what_stays(chosen, "It is meant to go on: Resume continues from there.")
    if _confirmed("Save and pause", "Keep training"):
        stop_soon(chosen.run, "paused")
        _done()


def _say_what_stays(chosen: Chosen, then: str) -> None:
    summary = chosen.summary
    step = f" (now step {summary.step:,} of {summary.total_steps:,})" if summary.total_steps else ""
    st.markdown(f"**{plain(chosen.title, 80)}** finishes its step{step}, saves a checkpoint and ends.")
    st.markdown(f"Nothing is deleted. {then}")


@st.dialog("Go on with this run?", icon=":material/play_circle:", on_dismiss=_forget)
def ask_to_start(chosen: Chosen) -> None:
    """Draw the dialog that starts or resumes a run; if two people confirm, the second one gets an error."""
    newest = chosen.run.newest_checkpoint_step()
    origin = f"from its newest good checkpoint (step {newest:,})" if newest else "from the beginning"
    st.markdown(f"**{plain(chosen.title, 80)}** trains in the background, {origin}.")
    if chosen.state.damage:
        st.markdown("Damaged records of past attempts are set aside first, never deleted.")
    if _confirmed(_start_word(chosen.state.status), "Not now"):
        with show_errors(), st.spinner("Starting …"):
            process_manager.start(chosen.run)
            _done()


@st.dialog("Delete this run?", icon=":material/delete:", on_dismiss=_forget)
def ask_to_delete(chosen: Chosen) -> None:
    """Draw the dialog that deletes a run, with a list of what is deleted."""
    st.markdown(f"**{plain(chosen.title, 80)}** is deleted for good:")
    st.code(str(chosen.run.path), language=None, wrap_lines=True)
    parts = ", ".join(what_goes(chosen.run))
    st.markdown(f"{size(folder_bytes(chosen.run.path))} with its {parts}. The training data stays.")
    if _confirmed("Delete for good", "Keep it"):
        with show_errors():
            chosen.studio.runs.delete(chosen.run.id)
            _forget()
            st.switch_page(RUN_PAGE)


def _confirmed(yes: str, no: str) -> bool:
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button(no, key="no"):
            _done()
        return st.button(yes, key="yes", type="primary")


def _done() -> None:
    """Close the dialog and draw the page again."""
    _forget()
    st.rerun()


@st.dialog("Labels", icon=":material/label:", on_dismiss=_forget)
def edit_labels(chosen: Chosen) -> None:
    """Draw the dialog for name, tags and note of a run; its id and folder stay."""
    labels = chosen.summary.labels
    with st.form("labels_form", border=False):
        name = st.text_input("Name", labels.name, placeholder=chosen.run.id, max_chars=120)
        tags = st.multiselect("Tags", labels.tags, labels.tags, accept_new_options=True)
        note = st.text_area("Note", labels.note, max_chars=4000)
        archived = st.checkbox("Archived: left out of lists", labels.archived)
        saved = st.form_submit_button("Save", type="primary")
    if saved:
        with show_errors():
            _save_labels(chosen, name, tags, note, archived=archived)
            _done()


def _save_labels(chosen: Chosen, name: str, tags: list[str], note: str, *, archived: bool) -> None:
    runs, run, before = chosen.studio.runs, chosen.run.id, chosen.summary.labels
    if name != before.name:
        runs.rename(run, name)
    runs.tag(run, add=tags, remove=tuple(set(before.tags) - set(tags)))
    if note != before.note:
        runs.note(run, note)
    if archived != before.archived:
        runs.archive(run, archived=archived)


@st.dialog("TensorBoard", icon=":material/bar_chart:", on_dismiss=_forget)
def open_tensorboard(chosen: Chosen) -> None:
    """Draw the address of the TensorBoard server for all runs; start the server if there is none."""
    with show_errors():
        with st.spinner("Starting TensorBoard …"):
            server = chosen.studio.tensorboard.start()
        st.markdown("It shows all runs of this studio, on this machine only.")
        st.link_button("Open TensorBoard", server.url, type="primary", icon=":material/open_in_new:")


_QUESTIONS = MappingProxyType(
    {
        "stop": ask_to_stop,
        "pause": ask_to_pause,
        "start": ask_to_start,
        "queue": _queue,
        "tensorboard": open_tensorboard,
        "labels": edit_labels,
        "delete": ask_to_delete,
    }
)
