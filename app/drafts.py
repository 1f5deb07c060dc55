"""Keep drafts of what a person types in the studio's folder, so that a reload of the browser loses nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import streamlit as st

from app.studio import studio
from backend.utils.file_utils import read_json_object, write_json_durably

_FOLDER = "drafts"
_log = logging.getLogger(__name__)


def draft(name: str) -> dict[str, Any]:
    """Return the draft of this name as this session left it, or in a new session as the last one left it."""
    kept: dict[str, Any] | None = st.session_state.get(_key(name))
    if kept is None:
        kept = _read(name)
        st.session_state[_key(name)] = kept
        st.session_state[_saved(name)] = json.dumps(kept)
    return kept


def keep_draft(name: str, values: Mapping[str, Any] | None = None) -> None:
    """Replace the draft by ``values``, if given, and save it in the studio's folder; a write error is only logged."""
    if values is not None:
        st.session_state[_key(name)] = dict(values)
    now = draft(name)
    text = json.dumps(now)
    if text == st.session_state.get(_saved(name)):
        return
    st.session_state[_saved(name)] = text
    path = studio().root / _FOLDER / f"{name}.json"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json_durably(path, now)
    except (OSError, ValueError) as error:
        _log.warning("What was typed could not be kept: %s", error)


def _read(name: str) -> dict[str, Any]:
    try:
        return read_json_object(studio().root / _FOLDER / f"{name}.json")
    except (OSError, ValueError):
        return {}


def _key(name: str) -> str:
    return f"draft {name}"


def _saved(name: str) -> str:
    return f"draft {name} as saved"
