"""The inference server as the pages need it: app/serving.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.serving import client, manager
from backend.errors import InferenceError
from tests.app.answering import Answering


def test_the_manager_is_that_of_this_studios_runs(root: Path) -> None:
    assert manager().root == root / "runs"
    assert manager() is manager()
    assert manager().find() is None


def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with Answering("secret") as server:
        monkeypatch.setenv("TUNESMITH_SERVER_TOKEN", "secret")
        assert client(server.url).answer("base", [{"role": "user", "content": "x"}])
        monkeypatch.delenv("TUNESMITH_SERVER_TOKEN")
        with pytest.raises(InferenceError):
            client(server.url).answer("base", [{"role": "user", "content": "x"}])
