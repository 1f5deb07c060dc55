"""The files a person gave the studio before, to be chosen again."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from app.studio import studio
from app.uploads import kept_files


def is_kept(source: str) -> bool:
    """Whether the studio keeps this file."""
    return source in map(str, kept_files(studio().root))


def choose_kept(chosen: str) -> str:
    """Draw the choice, with ``chosen`` in it where that is kept; the path chosen now, or nothing."""
    kept = [str(file) for file in kept_files(studio().root)]
    return (
        st.selectbox(
            "Or one you gave before",
            kept,
            index=kept.index(chosen) if chosen in kept else None,
            format_func=called,
            placeholder="Choose" if kept else "None yet",
            key=f"kept {chosen}",
        )
        or ""
    )


def called(file: str) -> str:
    """A kept file in words: its name, its version where it is a mended copy, the beginning of its content's hash."""
    folder, *between, name = Path(file).relative_to(studio().root / "data").parts
    return " · ".join(part for part in (name, " ".join(between), folder[:6]) if part)
