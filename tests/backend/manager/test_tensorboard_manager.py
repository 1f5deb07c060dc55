"""A real TensorBoard server: backend/manager/tensorboard_manager.py."""

from __future__ import annotations

import http.server
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.errors import RunError
from backend.manager import tensorboard_manager
from backend.manager.tensorboard_manager import TensorBoardManager, TensorBoardServer
from backend.utils.file_utils import write_json_durably
from backend.utils.process_utils import identify, is_alive, send_signal
from backend.utils.record_utils import record_to_json
from tests.eventually import eventually


@pytest.fixture
def manager(root: Path) -> Iterator[TensorBoardManager]:
    manager = TensorBoardManager(root)
    yield manager
    manager.stop()


def test_there_is_none_before_it_is_started(manager: TensorBoardManager, tmp_path: Path) -> None:
    assert manager.find() is None
    assert not manager.stop()
    assert not TensorBoardManager(tmp_path / "missing").stop()


@pytest.mark.slow
def test_f32_a_life_with_a_sudden_death(manager: TensorBoardManager, root: Path) -> None:
    server = manager.start()
    with urllib.request.urlopen(f"{server.url}data/environment", timeout=5) as answer:  # noqa: S310  ours
        assert json.load(answer)["data_location"] == str(root)
    assert server.url.startswith("http://127.0.0.1:")
    assert TensorBoardManager(root).start() == server

    send_signal(server.process, signal.SIGKILL)
    eventually(lambda: not is_alive(server.process))
    assert manager.find() is None
    again = manager.start()
    assert again.process != server.process

    assert manager.stop()
    assert not is_alive(again.process)
    assert [path.name for path in root.iterdir()] == [".tensorboard.lock"]


def test_a_server_that_does_not_come_up_says_why(
    manager: TensorBoardManager, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorboard_manager, "HOST", "no such host")
    with pytest.raises(RunError, match="TensorBoard did not start") as caught:
        manager.start()
    assert caught.value.code == "tensorboard-failed"


class _Foreign(http.server.BaseHTTPRequestHandler):
    """Somebody else's server: it answers 200 to everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data_location": "/somewhere/else"}')

    def log_message(self, *_: object) -> None:
        pass


def test_f31_a_foreign_server_on_the_port_is_not_taken_for_ours(
    manager: TensorBoardManager, root: Path
) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), _Foreign) as foreign:
        thread = threading.Thread(target=foreign.serve_forever, args=(0.01,))
        thread.start()
        stranger = TensorBoardServer(identify(os.getpid()), foreign.server_port, "secret")
        (root / ".tensorboard").mkdir()
        write_json_durably(root / ".tensorboard" / "server.json", record_to_json(stranger))
        assert manager.find() is None
        foreign.shutdown()
        thread.join()
    (root / ".tensorboard" / "server.json").unlink()


def test_a_damaged_record_is_no_server(manager: TensorBoardManager, root: Path) -> None:
    (root / ".tensorboard").mkdir()
    (root / ".tensorboard" / "server.json").write_text("{")
    assert manager.find() is None
