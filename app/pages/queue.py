"""Queue page: the order of waiting runs, how many run at a time, and which are held."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from app.actions import show_errors
from app.studio import studio
from app.views.cards import RUN_PAGE, draw_nothing_yet
from app.views.status_face import FACES, HELD, draw_badge
from app.views.text import ago, plain, title_of
from backend.manager.queue_watch import move_on
from backend.manager.run_summary import read_labels
from backend.run.folder import RunDir
from backend.run.reports import QueueTicket, RunStatus

LOOK_SECONDS = 5.0


def page() -> None:
    """Draw the page."""
    st.title("Queue")
    st.caption(
        "The first run in the list starts as soon as a training run ends. "
        "Runs of a higher priority come first, whatever their order."
    )
    _slots()
    st.fragment(_waiting, run_every=LOOK_SECONDS)()


def _slots() -> None:
    queue = studio().queue
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for device, count in queue.slots().items():
            name = "Runs at a time" if device == "default" else f"Runs at a time on {plain(device, 40)}"
            wanted = st.number_input(name, 0, 64, count, key=f"slots-{device}-{count}", width=180)
            if wanted != count:
                with show_errors():
                    queue.set_slots(device, int(wanted))
                    st.rerun()


def _waiting() -> None:
    with show_errors():
        move_on(studio().queue)
    waiting = studio().queue.waiting()
    if not waiting:
        draw_nothing_yet("The queue is empty", "A new run can be put here instead of being started at once.")
        return
    if st.button("Start runs whose turn it is", icon=":material/play_arrow:", key="schedule"):
        with show_errors():
            started = move_on(studio().queue)
            st.toast(f"Started {len(started)}." if started else "No slot is free now.")
            st.rerun()
    for place, (run, ticket) in enumerate(waiting):
        _entry(place, run, ticket, waiting)


def _entry(place: int, run: RunDir, ticket: QueueTicket, waiting: list[tuple[RunDir, QueueTicket]]) -> None:
    title = title_of(run.id, read_labels(run).name)
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{place + 1}.**", width="content")
            st.page_link(
                RUN_PAGE, label=f"**{plain(title, 60)}**", query_params={"run": run.id}, width="content"
            )
            draw_badge(HELD if ticket.hold else FACES[RunStatus.QUEUED])
            st.caption(f"queued {ago(ticket.queued)} · priority {ticket.priority}", width="content")
        if ticket.note:
            st.warning(plain(ticket.note, 400))
        _moves(place, run, ticket, waiting)


def _moves(place: int, run: RunDir, ticket: QueueTicket, waiting: list[tuple[RunDir, QueueTicket]]) -> None:
    """Draw the buttons of one entry."""
    queue = studio().queue
    before, behind = waiting[:place], waiting[place + 1 :]
    with st.container(horizontal=True, gap="small"):
        if _button("Earlier", "arrow_upward", run, not before):
            _do(lambda: queue.change(run, before=before[-1][0]))
        if _button("Later", "arrow_downward", run, not behind):
            _do(lambda: queue.change(behind[0][0], before=run))
        leads = all(ticket.priority > other.priority for _, other in behind) and not before
        trails = all(ticket.priority < other.priority for _, other in before) and not behind
        if _button("Raise priority", "keyboard_double_arrow_up", run, leads):
            _do(lambda: queue.change(run, priority=ticket.priority + 1))
        if _button("Lower priority", "keyboard_double_arrow_down", run, trails):
            _do(lambda: queue.change(run, priority=ticket.priority - 1))
        held = ticket.hold
        if _button("Release" if held else "Hold", "play_circle" if held else "front_hand", run):
            _do(lambda: queue.change(run, hold=not held))
        if _button("Remove", "close", run):
            _do(lambda: queue.leave(run))


def _button(label: str, icon: str, run: RunDir, disabled: bool = False) -> bool:
    helps = {
        "Earlier": "Before the run above, with its priority.",
        "Later": "The run below goes first.",
        "Raise priority": "By one: it comes before all runs of a lower priority.",
        "Lower priority": "By one: it comes after all runs of a higher priority.",
        "Hold": "Keep it waiting until it is released.",
        "Release": "Let it start when it has its turn.",
        "Remove": "Out of the queue; the run and its files stay.",
    }
    return st.button(
        label,
        key=f"{label}-{run.id}",
        icon=f":material/{icon}:",
        help=helps[label],
        disabled=disabled,
        type="tertiary",
    )


def _do(change: Callable[[], object]) -> None:
    with show_errors():
        change()
        st.rerun()


page()
