"""The door to the studio: what it starts, on which port, and what it refuses."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from backend.commands.cli import main
from backend.commands.studio import HOST, studio_command, studio_environment


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def exec_(monkeypatch: pytest.MonkeyPatch) -> object:
    """In place of the system call that never comes back."""
    fake = create_autospec(os.execve)
    monkeypatch.setattr(os, "execve", fake)
    return fake


def flag(command: list[str], name: str) -> str:
    (value,) = [word.partition("=")[2] for word in command if word.startswith(f"--{name}=")]
    return value


def test_alerts_that_would_not_be_sent_are_refused(exec_: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_ALERT_DESKTOP", "yes")
    assert main(["studio"]) == 2
    exec_.assert_not_called()  # type: ignore[attr-defined]


class TestCommand:
    def test_it_serves_the_pages_on_loopback_only(self) -> None:
        command = studio_command(8600, headless=True)
        assert command[:4] == [sys.executable, "-P", "-m", "app"]
        assert flag(command, "server.address") == "127.0.0.1"
        assert flag(command, "server.port") == "8600"

    def test_nothing_is_told_to_anybody(self) -> None:
        assert flag(studio_command(8600, headless=True), "browser.gatherUsageStats") == "false"

    def test_whatever_a_folder_or_a_home_configures_the_studio_is_not_opened_to_others(self) -> None:
        command = studio_command(8600, headless=True)
        assert flag(command, "server.enableCORS") == "true"
        assert flag(command, "server.enableXsrfProtection") == "true"
        assert flag(command, "server.corsAllowedOrigins") == "http://127.0.0.1:8600"
        assert flag(command, "client.allowedOrigins") == "http://127.0.0.1:8600"
        assert flag(command, "server.baseUrlPath") == flag(command, "server.customComponentBaseUrlPath") == ""
        assert (
            flag(command, "server.enableAgentApi") == flag(command, "server.enableStaticServing") == "false"
        )
        hosts = [word.partition("=")[2] for word in command if word.startswith("--server.allowedHosts=")]
        assert hosts == ["127.0.0.1", "localhost"]

    def test_every_setting_of_streamlit_that_is_said_exists(self) -> None:
        from streamlit import config

        said = {word[2:].partition("=")[0] for word in studio_command(8600, headless=True) if "=" in word}
        assert said <= set(config.get_config_options())

    def test_settings_of_streamlit_in_the_environment_are_left_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STREAMLIT_SERVER_ENABLE_CORS", "false")
        monkeypatch.setenv("STREAMLIT_SERVER_COOKIE_SECRET", "known")
        environ, again = studio_environment(Path("mine")), studio_environment(Path("mine"))
        assert [name for name in environ if name.startswith("STREAMLIT_")] == [
            "STREAMLIT_SERVER_COOKIE_SECRET"
        ]
        secrets = {each["STREAMLIT_SERVER_COOKIE_SECRET"] for each in (environ, again)}
        assert len(secrets - {"known"}) == 2

    @pytest.mark.parametrize(("headless", "count"), [(True, 1), (False, 0)])
    def test_the_browser_is_opened_unless_told_otherwise(self, headless: bool, count: int) -> None:
        assert studio_command(8600, headless=headless).count("--server.headless=true") == count

    def test_the_folder_is_absolute_and_our_code_comes_first(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PYTHONPATH", "elsewhere")
        environ = studio_environment(Path("mine"))
        assert environ["TUNESMITH_ROOT"] == str(tmp_path / "mine")
        ours, theirs = environ["PYTHONPATH"].split(os.pathsep)
        assert (Path(ours) / "backend" / "commands" / "cli.py").is_file()
        assert theirs == "elsewhere"


class TestPort:
    def test_a_free_one_is_found(self, exec_: object, capsys: pytest.CaptureFixture[str]) -> None:
        main(["studio", "--no-browser"])
        (program, command, _) = exec_.call_args.args  # type: ignore[attr-defined]
        port = flag(command, "server.port")
        assert program == sys.executable
        assert f"http://127.0.0.1:{port}\n" in capsys.readouterr().out
        with socket.create_server((HOST, int(port))) as server:
            assert server.getsockname()[1] == int(port)

    def test_the_next_one_when_the_usual_one_is_taken(
        self, exec_: object, monkeypatch: pytest.MonkeyPatch, taken: int
    ) -> None:
        monkeypatch.setattr("backend.commands.studio.USUAL_PORT", taken)
        main(["studio", "--no-browser"])
        assert flag(exec_.call_args.args[1], "server.port") not in {"0", str(taken)}  # type: ignore[attr-defined]

    def test_two_that_start_at_once_get_one_each(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ports: list[str] = []

        def second(_: str, command: list[str], __: dict[str, str]) -> None:
            ports.append(flag(command, "server.port"))

        def first(_: str, command: list[str], __: dict[str, str]) -> None:
            ports.append(flag(command, "server.port"))
            monkeypatch.setattr(os, "execve", second)
            main(["studio", "--no-browser"])
            assert main(["studio", f"--port={ports[0]}"]) == 2

        monkeypatch.setattr(os, "execve", first)
        main(["studio", "--no-browser"])
        assert len(set(ports)) == 2

    def test_a_taken_one_is_refused(
        self, exec_: object, taken: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["studio", "--port", str(taken)]) == 2
        assert f"Port {taken} is taken" in capsys.readouterr().err
        assert not exec_.called  # type: ignore[attr-defined]

    @pytest.mark.parametrize("port", ["0", "-1", "65536"])
    def test_what_is_no_port_is_refused(
        self, exec_: object, port: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["studio", f"--port={port}"]) == 2
        assert "is no port" in capsys.readouterr().err
        assert not exec_.called  # type: ignore[attr-defined]
