"""F37: a Hub that is slow, refuses, lies or breaks off: bounded, one sentence, and nothing partial is ever used.

The Hub is a server on the loopback interface; the client is a child, since the Hub's address is read at import.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.runs import child_environment

SHA = "0" * 40
WHOLE = 4096
PROGRAM = """
import json, sys, time
time.sleep = lambda seconds: None  # between two tries
from backend.core.model_resolver import resolve_model
from backend.data.hub import fetch
from backend.errors import TunesmithError
told = {}
for name in sys.argv[1:]:
    for what, ask in (("model", resolve_model), ("data", lambda n: fetch(n, None, lambda names: names))):
        began = time.monotonic()
        try:
            folder = ask(f"owner/{name}")
            answer = {"files": {path.name: path.stat().st_size for path in folder.iterdir()}}
        except TunesmithError as error:
            answer = {"code": error.code, "sentence": str(error)}
        told[f"{what} {name}"] = answer | {"seconds": time.monotonic() - began}
print(json.dumps(told))
"""
MODES = [
    "whole",
    "cut",
    "unauthorized",
    "forbidden",
    "missing",
    "toomany",
    "broken",
    "html",
    "elsewhere",
    "hangup",
]
STATUS = {"unauthorized": 401, "forbidden": 403, "missing": 404, "toomany": 429, "broken": 503}


class FalseHub(BaseHTTPRequestHandler):
    """``/api/{models|datasets}/owner/<mode>/…`` and its one file, config.json; the mode says what goes wrong."""

    asked: list[str]

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.asked.append(self.path)
        asked = [mode for mode in MODES if f"owner/{mode}" in self.path]
        act: dict[str, Callable[[], None]] = {
            "whole": self._serve,
            "cut": lambda: self._serve(cut=True),
            "html": lambda: self._send(b"<html>a captive portal</html>", "text/html"),
            "elsewhere": self._redirect,
            "hangup": lambda: self.connection.shutdown(socket.SHUT_RDWR),
        }
        act |= {name: lambda code=code: self._refuse(code) for name, code in STATUS.items()}
        act.get("".join(asked), lambda: self._refuse(404))()

    def _serve(self, *, cut: bool = False) -> None:
        file = {"type": "file", "path": "config.json", "size": WHOLE, "oid": "abc"}
        repository = {"id": "owner/name", "sha": SHA, "siblings": [{"rfilename": "config.json"}]}
        listing: Any = [file] if "/tree/" in self.path else repository
        if "/api/" in self.path:
            self._send(json.dumps(listing).encode())
        else:
            self._send(b"x" * WHOLE, cut=cut)

    def _send(self, body: bytes, kind: str = "application/json", *, cut: bool = False) -> None:
        self.send_response(200)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "X-Repo-Commit": SHA,
            "ETag": '"abc"',
        }.items():
            self.send_header(name, value)
        self.end_headers()
        sent = {True: body[:10], False: body}[cut] if self.command == "GET" else b""
        self.wfile.write(sent)

    def _redirect(self) -> None:
        self.send_response(302)
        self.send_header("Location", "http://192.0.2.1/secret")  # TEST-NET-1: nobody's
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _refuse(self, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def hub() -> Iterator[ThreadingHTTPServer]:
    handler = type("Hub", (FalseHub,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    worker = threading.Thread(target=server.serve_forever, daemon=True)
    worker.start()
    yield server
    server.shutdown()
    server.server_close()
    worker.join()


@pytest.fixture(scope="module")
def told(hub: ThreadingHTTPServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a child says of each mode, and every file that is left in its cache."""
    home = tmp_path_factory.mktemp("home")
    environ = child_environment(
        HF_ENDPOINT=f"http://127.0.0.1:{hub.server_address[1]}",
        HF_HUB_OFFLINE="0",
        HF_HOME=str(home),
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DOWNLOAD_TIMEOUT="2",
        HF_HUB_ETAG_TIMEOUT="2",
    )
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *MODES],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=Path(__file__).parents[2],
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    answers: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    answers["left"] = [path.name for path in home.rglob("snapshots/*/*") if path.stat().st_size != WHOLE]
    return answers


def test_f37_what_is_whole_is_used(told: dict[str, Any]) -> None:
    assert told["model whole"]["files"] == told["data whole"]["files"] == {"config.json": WHOLE}


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("what", ["model", "data"])
def test_f37_whatever_goes_wrong_is_one_sentence(told: dict[str, Any], what: str, mode: str) -> None:
    answer = told[f"{what} {mode}"]
    assert answer.get("code", "").startswith("hub-"), answer
    assert f"owner/{mode}" in answer["sentence"]
    assert "Traceback" not in answer["sentence"]


@pytest.mark.parametrize("mode", MODES)
def test_f37_nobody_tries_for_ever(told: dict[str, Any], hub: ThreadingHTTPServer, mode: str) -> None:
    """At most six tries of each request, with seconds between them."""
    asked = Counter(path for path in hub.RequestHandlerClass.asked if f"owner/{mode}" in path)  # type: ignore[attr-defined]
    assert max(asked.values()) <= 12
    assert told[f"model {mode}"]["seconds"] + told[f"data {mode}"]["seconds"] < 60


def test_f37_nothing_partial_is_left_under_a_final_name(told: dict[str, Any]) -> None:
    assert told["left"] == []
