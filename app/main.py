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
"""File, title and icon. One flat list: Streamlit draws sections in a way that screen readers stumble over."""


_STYLE = """<style>
div[data-testid=stSliderThumbValue], [data-testid=stMain] button[role=radio] {color: inherit}
[data-testid=stMain] a[data-testid=stPageLink-NavLink] {background: none; padding-inline: 0}
[data-testid=stMain] a[data-testid=stPageLink-NavLink] * {white-space: normal; overflow-wrap: anywhere}
[data-testid=stMain] a[data-testid=stPageLink-NavLink]:hover p {text-decoration: underline}
</style>"""
"""Streamlit writes a slider's value and a pressed segment in the primary colour. White on that colour must be
readable in buttons, and on any background but black no colour has 4.5:1 for both. Links among texts begin where the
texts begin, are read to their end, and bear no background: another run is no choice that was made."""


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
