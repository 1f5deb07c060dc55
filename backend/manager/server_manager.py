"""The inference server over a folder of runs: one per folder, on loopback, and known to be ours.

It outlives its starter. While it lives it holds a lock in the folder, beside the record that says where it answers;
whoever looks next finds both. Control wing: F0 only; the model is in the server's process.
"""

from __future__ import annotations

import secrets
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from backend.errors import RunError
from backend.manager.loopback import HOST, POLL_SECONDS, ask_json, end_process
from backend.manager.process_manager import child_environ
from backend.run_records import read_record
from backend.utils.detach import spawn_detached
from backend.utils.lock_utils import hold_lock, is_locked
from backend.utils.process_utils import ProcessIdentity, identify_started, is_alive
from backend.utils.record_utils import record_from_json

START_SECONDS = 120.0
STOP_SECONDS = 10.0
_ANSWER_SECONDS = 5.0
_MODULE = "backend.serving"


@dataclass(frozen=True)
class InferenceServer:
    """One server: its process, its port, and the name that it alone answers to."""

    process: ProcessIdentity
    port: int
    instance: str

    @property
    def url(self) -> str:
        """What an OpenAI client on this machine takes as its base URL."""
        return f"http://{HOST}:{self.port}/v1"


class ServerManager:
    """The inference server over ``root``. It keeps no state of its own, so any number of doors may have one."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._folder = self.root / ".server"

    @property
    def _starting(self) -> Path:
        return self.root / ".server.lock"

    @property
    def log(self) -> Path:
        """What the server said."""
        return self._folder / "server.log"

    def start(self) -> InferenceServer:
        """The running server, started (or started anew) when there is none that answers.

        Raises RunError ``server-failed`` when it does not come up.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with hold_lock(self._starting, wait_seconds=START_SECONDS + STOP_SECONDS):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            running = self.find()
            if running:
                return running
            self._end_recorded()
            return self._launch()

    def find(self) -> InferenceServer | None:
        """The server, when it runs and has proved to be ours; None otherwise."""
        server = self._recorded()
        alive = server is not None and is_locked(self._folder / "alive.lock") and is_alive(server.process)
        return server if alive and server is not None and _is_ours(server) else None

    def stop(self) -> bool:
        """End the server and remove what it left; False when there was none."""
        if not self._folder.is_dir():
            return False
        with hold_lock(self._starting, wait_seconds=START_SECONDS + STOP_SECONDS):
            ended = self._end_recorded()
            shutil.rmtree(self._folder, ignore_errors=True)
        return ended

    def _recorded(self) -> InferenceServer | None:
        try:
            return read_record(
                self._folder / "server.json", lambda value: record_from_json(InferenceServer, value)
            )
        except RunError:
            return None

    def _launch(self) -> InferenceServer:
        instance = secrets.token_hex(16)
        (self._folder / "server.json").unlink(missing_ok=True)
        self.log.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-P",
            "-u",
            "-m",
            _MODULE,
            str(self.root),
            str(self._folder),
            instance,
        ]
        environ = {**child_environ(), "PYTHONWARNINGS": "ignore"}
        process = identify_started(spawn_detached(command, log=self.log, environ=environ))
        deadline = time.monotonic() + START_SECONDS
        while is_alive(process) and time.monotonic() < deadline:
            server = self.find()
            if server and server.instance == instance:
                return server
            time.sleep(POLL_SECONDS)
        end_process(process, patience_seconds=STOP_SECONDS)
        last_words = self.log.read_text("utf-8", errors="replace").strip().splitlines()[-1:]
        raise RunError(
            f"The server did not start. {' '.join(last_words)}".strip(),
            remedy="Try it by hand with: tunesmith serve --port 0",
            code="server-failed",
        )

    def _end_recorded(self) -> bool:
        server = self._recorded()
        return server is not None and end_process(server.process, patience_seconds=STOP_SECONDS)


def _is_ours(server: InferenceServer) -> bool:
    """Whether what answers on the port is that very server."""
    answer = ask_json(server.port, "/health", timeout_seconds=_ANSWER_SECONDS)
    return answer.get("instance") == server.instance
