"""``python -m app``: Streamlit's own command, with our page and its options; its page discovery off."""

from __future__ import annotations

import sys
from unittest.mock import create_autospec

import pytest
from streamlit.runtime.pages_manager import PagesManager
from streamlit.web import cli

from app.__main__ import MAIN, main


def test_it_serves_our_navigation_with_the_options_given(monkeypatch: pytest.MonkeyPatch) -> None:
    served = create_autospec(cli.main)
    monkeypatch.setattr(cli, "main", served)
    monkeypatch.setattr(PagesManager, "uses_pages_directory", True)
    monkeypatch.setattr(sys, "argv", ["app", "--server.port=1"])
    main()
    served.assert_called_once_with()
    assert sys.argv == ["streamlit", "run", str(MAIN), "--server.port=1"]
    assert MAIN.is_file()
    assert PagesManager.uses_pages_directory is False
