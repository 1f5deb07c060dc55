"""Where the server listens and who may: backend/server/process.py. What it answers is tried under server/."""

from __future__ import annotations

import socket
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from backend.errors import ConfigError, RunError
from backend.server import process
from backend.server.process import TOKEN_VARIABLE, ServerOptions, opened
from backend.utils.lock_utils import hold_lock


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])  # noqa: S104 - refused
def test_s11_another_address_needs_a_token(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with (
        pytest.raises(ConfigError, match=TOKEN_VARIABLE) as caught,
        opened(ServerOptions(tmp_path, host=host)),
    ):
        pass
    assert caught.value.code == "token-required"


def test_with_a_token_any_address_may_be_listened_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    with opened(ServerOptions(tmp_path, host="0.0.0.0", port=0)) as (_, listener):  # noqa: S104
        assert listener.getsockname()[1] > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_that_is_taken_is_said(host: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = ServerOptions(tmp_path, host=host, port=taken.getsockname()[1])
        with pytest.raises(RunError) as caught, opened(options):
            pass
    assert caught.value.code == "address-in-use"


def test_two_servers_have_two_names(tmp_path: Path) -> None:
    assert ServerOptions(tmp_path).instance != ServerOptions(tmp_path).instance


def test_a_second_server_over_the_same_folder_leaves_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serving = create_autospec(process.serve)
    monkeypatch.setattr(process, "serve", serving)
    arguments = [str(tmp_path / "runs"), str(tmp_path), "instance"]
    with hold_lock(tmp_path / "alive.lock"):
        assert process.main(arguments) == 2
    serving.assert_not_called()
    assert capsys.readouterr().err == "Another server is at work over this folder.\n"
    assert process.main(arguments) == 0
    serving.assert_called_once()
