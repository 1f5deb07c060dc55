"""The studio's navigation, and nothing else. Started by ``tunesmith studio``."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

_HERE = Path(__file__).parent
_PAGES = (
    ("home", "Home", ":material/home:"),
    ("data", "Data", ":material/table_rows:"),
    ("new_run", "New run", ":material/add_circle:"),
    ("run", "Runs", ":material/monitoring:"),
    ("queue", "Queue", ":material/queue:"),
    ("compare", "Compare", ":material/compare_arrows:"),
    ("playground", "Playground", ":material/chat:"),
    ("export", "Export", ":material/ios_share:"),
    ("settings", "Settings", ":material/settings:"),
    ("help", "Help", ":material/help:"),
)
"""File, title and icon of each page. A flat list, since screen readers stumble over Streamlit's sections."""


_STYLE = """<style>
div[data-testid=stSliderThumbValue], [data-testid=stMain] button[role=radio] {color: inherit}
[data-testid=stMain] a[data-testid=stPageLink-NavLink] {background: none; padding-inline: 0}
[data-testid=stMain] a[data-testid=stPageLink-NavLink] * {white-space: normal; overflow-wrap: anywhere}
[data-testid=stMain] a[data-testid=stPageLink-NavLink]:hover p {text-decoration: underline}
</style>"""
"""Streamlit draws a slider's value and a pressed segment in the primary colour. White text on that colour must be
readable in buttons, and no colour has a contrast of 4.5:1 both with white and with our backgrounds, so these are
drawn in the text's colour. Links in text are aligned with it, wrap, and have no background, which would look like a
selection."""


def main() -> None:
    """Draw the navigation and the page that was chosen."""
    st.set_page_config(page_title="Tunesmith", page_icon=str(_HERE / "views" / "icon.svg"), layout="wide")
    st.logo(str(_HERE / "views" / "logo.svg"), size="large")
    st.html(_STYLE)
    pages = [
        st.Page(f"pages/{name}.py", title=title, icon=icon, default=name == "home")
        for name, title, icon in _PAGES
    ]
    st.navigation(pages, expanded=True).run()


main()
