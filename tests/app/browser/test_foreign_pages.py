"""A page of another site in the same browser cannot reach the studio, whatever its folder configures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.app.browser.served import ServedStudio

OPEN_TO_ALL = """
[server]
enableCORS = false
enableXsrfProtection = false
corsAllowedOrigins = ["*"]
allowedHosts = ["evil.example"]
enableAgentApi = true
enableStaticServing = true
[client]
allowedOrigins = ["*"]
"""
ATTEMPTS = """async studio => {
    const reached = {};
    for (const path of ["/", "/_stcore/health", "/_stcore/host-config", "/media/x"])
        reached[path] = await fetch(studio + path).then(answer => answer.ok, () => false);
    reached.upload = await fetch(studio + "/_stcore/upload_file/a/b", {method: "PUT", body: "x"})
        .then(answer => answer.ok, () => false);
    reached.socket = await new Promise(done => {
        const socket = new WebSocket(studio.replace("http", "ws") + "/_stcore/stream");
        socket.onopen = () => done(true);
        socket.onerror = () => done(false);
    });
    return reached;
}"""


class _Blank(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>evil</title>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def foreign_site() -> Iterator[str]:
    """Another origin: the same machine, another port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Blank) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_foreign_page_reaches_nothing(
    open_tab: Callable[..., Page], foreign_site: str, tmp_path: Path
) -> None:
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "config.toml").write_text(OPEN_TO_ALL)
    with ServedStudio(tmp_path, within=tmp_path) as studio:
        reached = open_tab(foreign_site).evaluate(ATTEMPTS, studio.url)
        assert reached == dict.fromkeys(reached, False)
        assert len(reached) == 6
        own = open_tab(studio.url).evaluate("fetch('/_stcore/host-config').then(answer => answer.ok)")
        assert own
