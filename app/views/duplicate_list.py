"""Draw groups of rows that are equal or nearly equal, as plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from app.views.problem_list import record_text
from app.views.text import plain
from backend.utils.text_utils import counted


def draw_duplicates(found: Mapping[str, Any]) -> None:
    """Draw the groups of each kind, largest first, or a success message if there is none."""
    exact, near = found["exact"], found["near"]
    if not exact["groups"] and not near["groups"]:
        st.success("No row repeats another.", icon=":material/check_circle:")
        return
    st.caption(
        f"Repeats among {counted(found['rows'], 'row')}: {exact['repeats']:,} word for word, "
        f"{near['repeats']:,} nearly. Capitals, spaces and end marks make no difference."
    )
    for kind, badge, icon in ((exact, "{} times", "content_copy"), (near, "{} alike", "compare")):
        for group in kind["shown"]:
            _draw_group(group, badge.format(f"{group['count']:,}"), icon, all_equal=kind is exact)
        hidden = kind["groups"] - len(kind["shown"])
        if hidden:
            st.caption(f"… and {counted(hidden, 'smaller group')}.")


def _draw_group(group: Mapping[str, Any], badge: str, icon: str, *, all_equal: bool) -> None:
    rows = group["rows"]
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(badge, icon=f":material/{icon}:", color="orange" if all_equal else "blue")
            more = ", …" if group["count"] > len(rows) else ""
            st.caption(plain(", ".join(row["place"] for row in rows), 300) + more)
        for row in rows[:1] if all_equal else rows:
            st.text(record_text(row["record"]))
