"""The certificate of an export: green, amber or red, in words, with the reasons."""

from __future__ import annotations

import streamlit as st

from app.exports import Export
from app.views.table import draw_table
from app.views.text import plain

_FACES = {
    "green": ("As trained", ":material/verified:", "green"),
    "amber": ("Worth a look", ":material/help:", "orange"),
    "red": ("Do not use", ":material/dangerous:", "red"),
}


def draw_certificate(export: Export) -> None:
    """The light, what it is about, why it is not green, and every check."""
    word, icon, colour = _FACES.get(export.light, _FACES["red"])
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(word, icon=icon, color=colour)  # type: ignore[arg-type]
        st.markdown(f"**{plain(export.folder.name)}** · {plain(f'{export.target} {export.precision}')}")
    for reason in export.reasons:
        st.markdown(f"- {plain(reason, 400)}")
    if not export.reasons and export.light == "green":
        st.caption("Somebody else's reader gave the same answers as the trained model.")
    if export.checks:
        with st.expander("Every check"):
            draw_table(export.checks)
