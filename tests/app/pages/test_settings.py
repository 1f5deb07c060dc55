"""The page Settings: app/pages/settings.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.app.conftest import OpenPage
from tests.app.waiting import texts


def test_where_things_lie(open_page: OpenPage, root: Path) -> None:
    assert open_page("settings").code[0].value == str(root)


def test_tokens_are_said_to_be_there_and_never_shown(
    open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    monkeypatch.delenv("TUNESMITH_SERVER_TOKEN", raising=False)
    app = open_page("settings")
    said = texts(app)
    assert "very_secret" not in said + str(app.session_state._state.filtered_state)
    assert [each.value.count("not set") for each in app.markdown if "badge[" in each.value] == [0, 1]


def test_nothing_there_takes_a_token(open_page: OpenPage) -> None:
    app = open_page("settings")
    assert not app.text_input
    assert not app.text_area
