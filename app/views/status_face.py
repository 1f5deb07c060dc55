"""Draw the state of a run with a colour, an icon and words, never by colour alone."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import streamlit as st

from app.phrases import what_to_do
from app.views.text import plain
from backend.run.lifecycle import NOT_RESPONDING
from backend.run.reports import RunState, RunStatus

Colour = Literal["gray", "blue", "green", "orange", "red", "violet"]


@dataclass(frozen=True)
class Face:
    """The look of a state: colour, icon and name."""

    colour: Colour
    icon: str
    words: str


FACES = MappingProxyType(
    {
        RunStatus.CREATED: Face("gray", ":material/radio_button_unchecked:", "Not started"),
        RunStatus.QUEUED: Face("violet", ":material/schedule:", "Queued"),
        RunStatus.STARTING: Face("blue", ":material/hourglass_top:", "Starting"),
        RunStatus.RUNNING: Face("blue", ":material/play_circle:", "Running"),
        RunStatus.STOPPING: Face("orange", ":material/save:", "Stopping"),
        RunStatus.STOPPED: Face("gray", ":material/stop_circle:", "Stopped"),
        RunStatus.INTERRUPTED: Face("orange", ":material/power_off:", "Interrupted"),
        RunStatus.FAILED: Face("red", ":material/error:", "Failed"),
        RunStatus.FINISHED: Face("green", ":material/check_circle:", "Finished"),
    }
)
PAUSED = Face("gray", ":material/pause_circle:", "Paused")
HELD = Face("violet", ":material/front_hand:", "Held")
SILENT = Face("orange", ":material/heart_broken:", "Not responding")
DAMAGED = Face("red", ":material/broken_image:", "Damaged")


def face_of(status: RunStatus, reason: str = "", damage: str = "") -> Face:
    """Return the look of a run with this status, reason, and damage to its folder."""
    if damage:
        return DAMAGED
    if reason == NOT_RESPONDING:
        return SILENT
    if status is RunStatus.STOPPED and reason == "paused":
        return PAUSED
    return HELD if status is RunStatus.QUEUED and reason == "held" else FACES[status]


def draw_badge(face: Face) -> None:
    """Draw the state as a badge."""
    st.badge(face.words, icon=face.icon, color=face.colour)


def draw_state(run: str, state: RunState, *, advise: bool = True) -> None:
    """Draw the state of a run in a sentence and, with ``advise``, what to do next."""
    face = face_of(state.status, state.reason, state.damage)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        draw_badge(face)
        st.markdown(plain(state.message, 400), width="content")
    needs_words = not state.is_live or state.reason == NOT_RESPONDING
    if advise and needs_words and state.status is not RunStatus.FINISHED:
        st.caption(plain(what_to_do(state.remedy, state.next_step, run), 400))
