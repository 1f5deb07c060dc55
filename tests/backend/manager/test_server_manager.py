"""A real server process of its own: backend/manager/server_manager.py."""

from __future__ import annotations

import http.server
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.errors import RunError
from backend.manager import server_manager
from backend.manager.server_manager import InferenceServer, ServerManager
from backend.server import process
from backend.utils.file_utils import write_json_durably
from backend.utils.lock_utils import hold_lock
from backend.utils.process_utils import identify, is_alive, send_signal
from backend.utils.record_utils import record_to_json
from tests.eventually import eventually


@pytest.fixture
def manager(root: Path) -> Iterator[ServerManager]:
    manager = ServerManager(root)
    yield manager
    manager.stop()


def _ask(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - ours
        said: dict[str, Any] = json.load(answer)
    return said


def test_there_is_none_before_it_is_started(manager: ServerManager, tmp_path: Path) -> None:
    assert manager.find() is None
    assert not manager.stop()
    assert not ServerManager(tmp_path / "missing").stop()


@pytest.mark.slow
def test_a_life_after_a_sudden_death(manager: ServerManager, root: Path) -> None:
    """The one that dies is a stand-in; the one that follows is real, and finds the folder as the dead one left it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_manager, "SERVER", "tests.backend.manager.stand_in_server")
        dead = manager.start()
    assert manager.find() == dead
    send_signal(dead.process, signal.SIGKILL)
    eventually(lambda: not is_alive(dead.process))
    assert manager.find() is None

    server = manager.start()
    assert server.process != dead.process
    assert server.instance != dead.instance
    assert server.url.startswith("http://127.0.0.1:")
    assert _ask(f"{server.url}/models") == {"object": "list", "data": []}
    assert ServerManager(root).start() == server == ServerManager(root).find()

    assert manager.stop()
    assert not is_alive(server.process)
    assert [path.name for path in root.iterdir()] == [".server.lock"]


def test_a_server_that_does_not_come_up_says_why(
    manager: ServerManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_manager, "SERVER", "backend.no_such_room")
    with pytest.raises(RunError, match=r"did not start.*no_such_room") as caught:
        manager.start()
    assert caught.value.code == "server-failed"


class _Foreign(http.server.BaseHTTPRequestHandler):
    """Somebody else's server: it answers 200 to everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"instance": "another"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("instance", ["mine", "another"])
def test_f31_a_server_counts_only_with_its_lock_and_its_name(
    instance: str, manager: ServerManager, root: Path
) -> None:
    folder = root / ".server"
    folder.mkdir()
    with http.server.HTTPServer(("127.0.0.1", 0), _Foreign) as foreign:
        thread = threading.Thread(target=foreign.serve_forever, args=(0.01,))
        thread.start()
        found = InferenceServer(identify(os.getpid()), foreign.server_port, instance)
        write_json_durably(folder / "server.json", record_to_json(found))
        unlocked = manager.find()
        with hold_lock(folder / "alive.lock"):
            locked = manager.find()
        foreign.shutdown()
        thread.join()
    (folder / "server.json").unlink()
    assert unlocked is None
    assert locked == {"mine": None, "another": found}[instance]


def test_a_damaged_record_is_no_server(manager: ServerManager, root: Path) -> None:
    (root / ".server").mkdir()
    (root / ".server" / "server.json").write_text("{")
    assert manager.find() is None


@pytest.mark.slow
def test_two_servers_never_share_a_folder(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root / ".server"
    folder.mkdir()
    with hold_lock(folder / "alive.lock"):
        assert process.main([str(root), str(folder), "second"]) == 2
    assert "Another server" in capsys.readouterr().err
    assert not (folder / "server.json").exists()
