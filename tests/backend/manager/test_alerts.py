"""A word when a run ends: backend/manager/alerts.py, with a real server on loopback."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.errors import ConfigError
from backend.manager.alerts import Alert, AlertSettings, check_environ, send
from backend.run.reports import RunState, RunStatus

ALERT = Alert("run-1", "failed", "non-finite-loss", "The loss became nan.")


class _Receiver(http.server.BaseHTTPRequestHandler):
    received: list[tuple[str, dict[str, str]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.path, json.loads(body)))
        self.send_response(302 if self.path == "/moved" else 200)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[http.server.HTTPServer]:
    _Receiver.received = []
    with http.server.HTTPServer(("127.0.0.1", 0), _Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def to(server: http.server.HTTPServer, path: str, hosts: tuple[str, ...] = ("127.0.0.1",)) -> AlertSettings:
    return AlertSettings(webhook=f"http://127.0.0.1:{server.server_port}{path}", hosts=hosts)


def test_nothing_is_sent_unless_it_is_set() -> None:
    assert AlertSettings.from_environ({}) == AlertSettings()
    assert send(ALERT, AlertSettings()) == ()


def test_settings_come_from_the_environment() -> None:
    environ = {
        "TUNESMITH_ALERT_DESKTOP": "1",
        "TUNESMITH_ALERT_WEBHOOK": "https://hooks.example/x",
        "TUNESMITH_ALERT_HOSTS": "hooks.example, Other.Example,",
    }
    expected = AlertSettings(True, "https://hooks.example/x", ("hooks.example", "other.example"))
    assert AlertSettings.from_environ(environ) == expected


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DESKTOP", "yes", "neither 1 nor 0"),
        ("WEBHOK", "https://hooks.example/secret", "no setting"),
        ("WEBHOOK", "https://other.example/secret", "not listed"),
        ("WEBHOOK", "ftp://hooks.example/secret", "must begin"),
        ("WEBHOOK", "https://[hooks.example/secret", "no web address"),
    ],
)
def test_what_would_send_nothing_is_refused(name: str, value: str, said: str) -> None:
    right = {"TUNESMITH_ALERT_DESKTOP": "0", "TUNESMITH_ALERT_HOSTS": "hooks.example"}
    check_environ(right)
    with pytest.raises(ConfigError, match=said) as caught:
        check_environ(right | {f"TUNESMITH_ALERT_{name}": value})
    assert "secret" not in str(caught.value)


def test_an_alert_is_about_where_a_run_stands() -> None:
    state = RunState(RunStatus.FAILED, "non-finite-loss", "The loss became nan.", "Lower it.")
    assert Alert.about("run-1", state) == ALERT


def test_a_listed_host_gets_one_post(receiver: http.server.HTTPServer) -> None:
    assert send(ALERT, to(receiver, "/hook?key=1")) == ()
    ((path, body),) = _Receiver.received
    assert path == "/hook?key=1"
    assert body["run"] == "run-1"
    assert body["text"] == "run-1: The loss became nan."


def test_s10_an_unlisted_host_gets_nothing(receiver: http.server.HTTPServer) -> None:
    (problem,) = send(ALERT, to(receiver, "/hook", hosts=("example.org",)))
    assert "not listed" in problem
    assert _Receiver.received == []


def test_s10_a_redirect_is_not_followed(receiver: http.server.HTTPServer) -> None:
    (problem,) = send(ALERT, to(receiver, "/moved"))
    assert problem == "127.0.0.1 answered 302."
    assert [path for path, _ in _Receiver.received] == ["/moved"]


@pytest.mark.parametrize(
    ("webhook", "problem"),
    [
        ("http://[::1", "no web address"),
        ("http://h:99999999/", "no web address"),
        ("ftp://h/x", "must begin with"),
        ("http://h@evil.example/x", "'evil.example' is not listed"),
    ],
)
def test_addresses_that_are_none(webhook: str, problem: str) -> None:
    (said,) = send(ALERT, AlertSettings(webhook=webhook, hosts=("h",)))
    assert problem in said


def test_s14_what_went_wrong_never_repeats_the_address(receiver: http.server.HTTPServer) -> None:
    port = receiver.server_port
    settings = AlertSettings(webhook=f"https://127.0.0.1:{port}/SECRET", hosts=("127.0.0.1",))
    (problem,) = send(ALERT, settings)
    assert "could not be reached" in problem
    assert "SECRET" not in problem


class TestDesktop:
    def program(self, folder: Path, text: str) -> None:
        (folder / "notify-send").write_text(f"#!/bin/sh\n{text}\n")
        (folder / "notify-send").chmod(0o700)

    def test_the_words_arrive_as_words(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.program(tmp_path, f'printf "%s|" "$@" > {tmp_path}/said')
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        assert send(Alert("--run", "failed", "x", "-m; rm"), AlertSettings(desktop=True)) == ()
        assert (tmp_path / "said").read_text() == "--|--run: failed|-m; rm|"

    def test_a_program_that_fails_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.program(tmp_path, "exit 3")
        monkeypatch.setenv("PATH", str(tmp_path))
        assert send(ALERT, AlertSettings(desktop=True)) == ("notify-send did not work (CalledProcessError).",)

    def test_no_program_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert send(ALERT, AlertSettings(desktop=True)) == ("There is no notify-send on this machine.",)
