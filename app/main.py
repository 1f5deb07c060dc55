"""The studio's navigation, and nothing else. Started by ``tunesmith studio``."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

_HERE = Path(__file__).parent
_PAGES = {
    "": [
        ("home", "Home", ":material/home:"),
    ],
    "Train": [
        ("data", "Data", ":material/table_rows:"),
        ("new_run", "New run", ":material/add_circle:"),
        ("run", "Runs", ":material/monitoring:"),
        ("queue", "Queue", ":material/queue:"),
    ],
    "Use": [
        ("compare", "Compare", ":material/compare_arrows:"),
        ("playground", "Playground", ":material/chat:"),
        ("export", "Export", ":material/ios_share:"),
    ],
    "Studio": [
        ("settings", "Settings", ":material/settings:"),
        ("help", "Help", ":material/help:"),
    ],
}


def main() -> None:
    """Draw the navigation and the page that was chosen."""
    st.set_page_config(page_title="Tunesmith", page_icon=str(_HERE / "views" / "icon.svg"), layout="wide")
    st.logo(str(_HERE / "views" / "logo.svg"), size="large")
    pages = {
        section: [
            st.Page(f"pages/{name}.py", title=title, icon=icon, default=name == "home")
            for name, title, icon in entries
        ]
        for section, entries in _PAGES.items()
    }
    st.navigation(pages).run()


main()
