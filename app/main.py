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


def main() -> None:
    """Draw the navigation and the page that was chosen."""
    st.set_page_config(page_title="Tunesmith", page_icon=str(_HERE / "views" / "icon.svg"), layout="wide")
    st.logo(str(_HERE / "views" / "logo.svg"), size="large")
    pages = [
        st.Page(f"pages/{name}.py", title=title, icon=icon, default=name == "home")
        for name, title, icon in _PAGES
    ]
    st.navigation(pages, expanded=True).run()


main()
