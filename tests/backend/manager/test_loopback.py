"""One server of a kind per folder, asked who it is and ended: backend/manager/loopback.py."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from backend.errors import NextStep, RunError
from backend.manager.loopback import LoopbackManager, ask_json, end_process
from backend.utils.file_utils import write_json_durably
from backend.utils.lock_utils import LockedError, hold_lock, is_locked
from backend.utils.process_utils import ProcessIdentity, identify, is_alive
from backend.utils.record_utils import record_to_json

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
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
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


@dataclass(frozen=True)
class Small:
    process: ProcessIdentity
    port: int


class SmallManager(LoopbackManager[Small]):
    """Its server is a process that says nothing but its number, on its output."""

    kind = Small
    folder_name = ".small"
    start_seconds = 20.0
    stop_seconds = 5.0
    failure = ("The small server did not start.", "small-failed", NextStep.SERVE)
    code = "print(8080, flush=True); import time; time.sleep(300)"
    ours = True

    def _launch(self) -> Small:
        process = self._spawn([sys.executable, "-c", self.code], {})

        def came_up() -> Small | None:
            return Small(process, int(self._said())) if self._said().strip().isdigit() else None

        server = self._await(process, came_up)
        write_json_durably(self._record, record_to_json(server))
        return server

    def _is_ours(self, server: Small) -> bool:
        return self.ours


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallManager]:
    manager = SmallManager(tmp_path / "runs")
    yield manager
    manager.stop()


class TestOneServer:
    def test_it_is_started_once_found_by_all_and_leaves_nothing(self, small: SmallManager) -> None:
        assert (small.find(), small.stop()) == (None, False)
        server = small.start()
        assert SmallManager(small.root).start() == server == small.find()
        assert server.port == 8080
        assert small.stop()
        assert not is_alive(server.process)
        assert (small.find(), small.stop()) == (None, False)
        assert not (small.root / ".small").exists()

    def test_one_that_does_not_prove_to_be_ours_is_ended_and_replaced(self, small: SmallManager) -> None:
        first = small.start()
        small.ours = False
        assert small.find() is None
        assert small.start() != first
        assert not is_alive(first.process)

    def test_it_is_ended_under_the_lock_of_those_that_start_one(
        self, small: SmallManager, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        locked: list[bool] = []
        lock = small.root / ".small.lock"
        (small.root / ".small").mkdir(parents=True)
        monkeypatch.setattr(small, "_end_recorded", lambda: (locked.append(is_locked(lock)), False)[1])
        assert not small.stop()
        assert locked == [True]

    @pytest.mark.parametrize("act", [SmallManager.start, SmallManager.stop])
    def test_whoever_starts_or_stops_one_waits_for_another_who_does(
        self, small: SmallManager, monkeypatch: pytest.MonkeyPatch, act: Callable[[SmallManager], object]
    ) -> None:
        (small.root / ".small").mkdir(parents=True)
        with hold_lock(small.root / ".small.lock"), monkeypatch.context() as hurried:
            hurried.setattr(SmallManager, "start_seconds", 0)
            hurried.setattr(SmallManager, "stop_seconds", 0)
            with pytest.raises(LockedError):
                act(small)
        assert [path.name for path in (small.root / ".small").iterdir()] == []

    def test_a_torn_record_is_none(self, small: SmallManager) -> None:
        (small.root / ".small").mkdir(parents=True)
        (small.root / ".small" / "server.json").write_text('{"process": ')
        assert small.find() is None

    def test_one_that_ends_at_once_is_told_with_its_last_words(self, small: SmallManager) -> None:
        small.code = "import sys; sys.exit('much was said before\\nno room')"
        with pytest.raises(RunError, match=r"The small server did not start\. no room") as caught:
            small.start()
        assert (caught.value.code, caught.value.next_step) == ("small-failed", NextStep.SERVE)
        assert small.find() is None

    def test_one_that_never_answers_is_ended(
        self, small: SmallManager, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(SmallManager, "start_seconds", 0.5)
        small.code = "print('hello', flush=True); import time; time.sleep(300)"
        with pytest.raises(RunError, match="did not start"):
            small.start()
