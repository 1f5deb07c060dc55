"""What outlives a reload of the browser: app/drafts.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import streamlit as st

from app.drafts import draft, keep_draft
from tests.logs import Logged


@pytest.fixture(autouse=True)
def _one_session() -> None:
    st.session_state.clear()


def reload() -> None:
    st.session_state.clear()


def test_a_new_session_goes_on_where_the_last_one_was(root: Path) -> None:
    assert draft("new-run") == {}
    draft("new-run")["name"] = "mine"
    keep_draft("new-run")
    reload()
    assert draft("new-run") == {"name": "mine"}


def test_what_replaces_a_draft_is_kept(root: Path) -> None:
    keep_draft("new-run", {"name": "mine"})
    keep_draft("new-run", {"seed": 7})
    reload()
    assert draft("new-run") == {"seed": 7}


def test_drafts_of_two_names_are_two(root: Path) -> None:
    keep_draft("new-run", {"name": "mine"})
    assert draft("playground") == {}


def test_nothing_is_written_where_nothing_changed(root: Path) -> None:
    draft("new-run")
    keep_draft("new-run")
    assert not (root / "drafts").exists()


def test_drafts_are_the_owners_alone(root: Path) -> None:
    keep_draft("new-run", {"name": "mine"})
    assert (root / "drafts").stat().st_mode & 0o077 == 0
    assert (root / "drafts" / "new-run.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", ["", "{", "[1]", "\0"])
def test_a_damaged_draft_is_an_empty_one(root: Path, content: str) -> None:
    (root / "drafts").mkdir()
    (root / "drafts" / "new-run.json").write_text(content)
    assert draft("new-run") == {}


def test_a_disk_that_refuses_costs_only_the_memory_of_it(root: Path, logged: Logged) -> None:
    (root / "drafts").write_text("a file in the way")
    keep_draft("new-run", {"name": "mine"})
    assert draft("new-run") == {"name": "mine"}
    assert "could not be kept" in logged.text
