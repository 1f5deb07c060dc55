"""Asking a server who it is, and ending its process: backend/manager/loopback.py."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from backend.manager.loopback import ask_json, end_process
from backend.utils.process_utils import identify

DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); input()"
MEEK = "print('up', flush=True); input()"


@contextmanager
def answering(body: bytes) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/who" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b'{"name": "a"}', {"name": "a"}), (b"[1]", {}), (b"{", {}), (b"\xff", {}), (b"", {})],
)
def test_only_an_object_counts(body: bytes, expected: dict[str, object]) -> None:
    with answering(body) as port:
        assert ask_json(port, "/who", timeout_seconds=5) == expected


def test_nobody_answers() -> None:
    with answering(b"{}") as port:
        pass
    assert ask_json(port, "/who", timeout_seconds=1) == {}


@pytest.mark.parametrize(("code", "patience", "signal_number"), [(MEEK, 20, -15), (DEAF, 0.1, -9)])
def test_it_is_asked_and_then_made_to_end(code: str, patience: float, signal_number: int) -> None:
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        identity = identify(child.pid)
        assert end_process(identity, patience_seconds=patience)
        assert child.wait() == signal_number
    assert not end_process(identity, patience_seconds=patience)
