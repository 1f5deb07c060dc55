"""The files a person gave the studio before, to be chosen again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import streamlit as st

from app.studio import studio
from app.uploads import kept_files
from app.views.text import persons_zone, size


def is_kept(source: str) -> bool:
    """Return whether the studio keeps this file."""
    return source in map(str, kept_files(studio().root))


def choose_kept(chosen: str) -> str:
    """Draw the choice, with ``chosen`` in it where that is kept; the path chosen now, or nothing."""
    files = kept_files(studio().root)
    kept, names = [str(file) for file in files], Counter(map(_named, files))
    return (
        st.selectbox(
            "Or one you gave before",
            kept,
            index=kept.index(chosen) if chosen in kept else None,
            format_func=lambda file: _in_words(Path(file), names),
            placeholder="Choose" if kept else "None yet",
            key=f"kept {chosen}",
        )
        or ""
    )


def called(file: str) -> str:
    """A kept file in words: its name, version, size and date; where two have one name, its hash too."""
    return _in_words(Path(file), Counter(map(_named, kept_files(studio().root))))


def _in_words(file: Path, names: Mapping[str, int]) -> str:
    """``called``, where ``names`` says how many files have a name."""
    name = _named(file)
    try:
        stat = file.stat()
    except OSError:  # it went away meanwhile
        return name
    date = f"{datetime.fromtimestamp(stat.st_mtime, persons_zone()):%d %b %Y}"
    content = file.relative_to(studio().root / "data").parts[0][:6] if names[name] > 1 else ""
    return " · ".join(filter(None, [name, size(stat.st_size), date, content]))


def _named(file: Path) -> str:
    """Its name, and its version where it is a mended copy."""
    _, *between, name = file.relative_to(studio().root / "data").parts
    return " · ".join(filter(None, [name, " ".join(between)]))
