"""What every test of a page stands on: run folders in every state, pages opened over them, no page exception."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from tests.app.states import Runs

MAIN = Path(__file__).parents[2] / "app" / "main.py"
PATIENCE_SECONDS = 60.0

OpenPage = Callable[..., AppTest]


@pytest.fixture(autouse=True, scope="session")
def _installed_components_are_looked_for_once() -> Iterator[None]:
    """Each AppTest starts a runtime, and each runtime reads the metadata of every installed package anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            manifest_scanner, "scan_component_manifests", cache(manifest_scanner.scan_component_manifests)
        )
        yield


@pytest.fixture(autouse=True)
def _no_page_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test clicks: a page that shows an exception fails it."""
    run = AppTest._run

    def checked(self: AppTest, *args: Any, **kwargs: Any) -> AppTest:
        shown = run(self, *args, **kwargs)
        wrong = [f"{one.message}\n{''.join(one.stack_trace)}" for one in shown.exception]
        assert not wrong, "\n".join(wrong)
        return shown

    monkeypatch.setattr(AppTest, "_run", checked)


@pytest.fixture(autouse=True)
def _studio_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees what another one's studio has cached or kept."""
    monkeypatch.setenv("TUNESMITH_ROOT", str(tmp_path))
    yield
    st.session_state.clear()
    st.cache_resource.clear()
    st.cache_data.clear()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that the studio works in."""
    return tmp_path


@pytest.fixture
def runs(root: Path) -> Iterator[Runs]:
    """Makes the runs that the studio shows."""
    made = Runs(root / "runs")
    yield made
    made.close()


@pytest.fixture
def open_page(root: Path) -> OpenPage:
    """Opens a page by its file's name, as the address in a browser would: ``open_page("run", run="2026…")``."""

    def open_(name: str, **query: str) -> AppTest:
        app = AppTest.from_file(MAIN, default_timeout=PATIENCE_SECONDS)
        app.switch_page(f"pages/{name}.py")
        app.query_params.update(query)
        return app.run()

    return open_
