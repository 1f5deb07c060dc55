"""Choose again among the files that a person gave the studio before."""

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
    """Return whether this file is one that the studio keeps."""
    return source in map(str, kept_files(studio().root))


def choose_kept(chosen: str) -> str:
    """Draw the choice, ``chosen`` selected if it is a kept file; return the path selected now, or ""."""
    files = kept_files(studio().root)
    kept, names = [str(file) for file in files], Counter(map(_named, files))
    return (
        st.selectbox(
            "Or a file you gave before",
            kept,
            index=kept.index(chosen) if chosen in kept else None,
            format_func=lambda file: _in_words(Path(file), names),
            placeholder="Choose" if kept else "None yet",
            key=f"kept {chosen}",
        )
        or ""
    )


def called(file: str) -> str:
    """Return the label of a kept file: name, version, size and date, and its hash if two have the same name."""
    return _in_words(Path(file), Counter(map(_named, kept_files(studio().root))))


def _in_words(file: Path, names: Mapping[str, int]) -> str:
    """Return the label of a file; ``names`` counts the files with each name."""
    name = _named(file)
    try:
        stat = file.stat()
    except OSError:  # it was deleted meanwhile
        return name
    date = f"{datetime.fromtimestamp(stat.st_mtime, persons_zone()):%d %b %Y}"
    content = file.relative_to(studio().root / "data").parts[0][:6] if names[name] > 1 else ""
    return " · ".join(filter(None, [name, size(stat.st_size), date, content]))


def _named(file: Path) -> str:
    """Return a file's name, and its version if it is a mended copy."""
    _, *between, name = file.relative_to(studio().root / "data").parts
    return " · ".join(filter(None, [name, " ".join(between)]))
