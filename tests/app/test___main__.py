"""``python -m app``: Streamlit's own command, with our page and its options; its page discovery off."""

from __future__ import annotations

import subprocess
import sys
import threading
from unittest.mock import create_autospec

import pytest
from streamlit.runtime.pages_manager import PagesManager
from streamlit.web import cli

import app.__main__
from app.__main__ import SERVER, SWITCH_SECONDS, main


@pytest.fixture
def warmed(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once something has been loaded beside the server."""
    loaded = threading.Event()
    fake = create_autospec(app.__main__._preload, side_effect=loaded.set)
    monkeypatch.setattr(app.__main__, "_preload", fake)
    return loaded


def test_it_serves_our_navigation_with_the_options_given(
    monkeypatch: pytest.MonkeyPatch, warmed: threading.Event
) -> None:
    served = create_autospec(cli.main)
    monkeypatch.setattr(cli, "main", served)
    monkeypatch.setattr(PagesManager, "uses_pages_directory", True)
    monkeypatch.setattr(sys, "argv", ["app", "--server.port=1"])
    hurried = create_autospec(sys.setswitchinterval)
    monkeypatch.setattr(sys, "setswitchinterval", hurried)
    main()
    served.assert_called_once_with(standalone_mode=False)
    hurried.assert_called_once_with(SWITCH_SECONDS)
    assert sys.argv == ["streamlit", "run", str(SERVER), "--server.port=1"]
    assert SERVER.is_file()
    assert PagesManager.uses_pages_directory is False
    assert warmed.wait(10)


def test_what_pages_want_is_loaded_once_the_server_stands_and_nothing_heavy() -> None:
    script = """
import gc, sys, threading
from streamlit import runtime
from app.__main__ import _preload
stands = threading.Event()
runtime.exists = stands.is_set
loading = threading.Thread(target=_preload)
loading.start()
loading.join(0.1)
print("app.run_bodies" in sys.modules)
stands.set()
loading.join()
print(sorted({"pyarrow", "app.run_bodies", "pandas", "torch"} & set(sys.modules)))
print(gc.get_freeze_count() > 10_000)
"""
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert child.stdout.splitlines()[-3:] == ["False", "['app.run_bodies', 'pyarrow']", "True"]
