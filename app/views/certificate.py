"""Draw the certificate of an export: its light in words, the reasons, and every check."""

from __future__ import annotations

import streamlit as st

from app.exports import Export
from app.views.table import draw_table
from app.views.text import plain, size, title_of

_FACES = {
    "green": ("As trained", ":material/verified:", "green"),
    "amber": ("Worth a look", ":material/help:", "orange"),
    "red": ("Do not use", ":material/dangerous:", "red"),
}


def draw_certificate(export: Export) -> None:
    """Draw the light, the export it is for, and the reasons why it is not green."""
    word, icon, colour = _FACES.get(export.light, _FACES["red"])
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(word, icon=icon, color=colour)  # type: ignore[arg-type]
        st.markdown(f"**{plain(title_of(export.folder.name))}**", width="content")
        what = [export.target, export.precision, size(sum(export.files.values()))]
        st.caption(plain(" · ".join(filter(None, what))), width="content")
    for reason in export.reasons:
        st.markdown(f"- {plain(reason, 400)}")
    if not export.reasons and export.light == "green":
        st.caption("Another program read it back and gave the same answers as the trained model.")


def draw_checks(export: Export) -> None:
    """Draw every check with its finding."""
    draw_table(export.checks, height="content")
