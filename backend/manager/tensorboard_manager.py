"""A real TensorBoard server over a folder of runs: one per folder, on loopback, and known to be ours.

It outlives its starter, and whoever looks next finds it by a small record in the folder. For the numbers
themselves see ``scalars`` (our runs) and ``event_files`` (anybody's). Control wing: F0 only; TensorBoard runs in
a process of its own.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from backend.errors import RunError
from backend.manager.loopback import HOST, POLL_SECONDS, ask_json, end_process
from backend.run_records import read_record
from backend.utils.detach import spawn_detached
from backend.utils.file_utils import write_json_durably
from backend.utils.lock_utils import hold_lock
from backend.utils.process_utils import ProcessIdentity, identify_started, is_alive
from backend.utils.record_utils import record_from_json, record_to_json

START_SECONDS = 60.0
STOP_SECONDS = 5.0
_ANSWER_SECONDS = 2.0


@dataclass(frozen=True)
class TensorBoardServer:
    """One server: its process, its port, and the secret part of its address."""

    process: ProcessIdentity
    port: int
    secret: str

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        return f"http://{HOST}:{self.port}/{self.secret}/"


class TensorBoardManager:
    """The TensorBoard server over ``root``. It keeps no state of its own, so any number of doors may have one."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._folder = self.root / ".tensorboard"

    @property
    def _record(self) -> Path:
        return self._folder / "server.json"

    @property
    def _lock(self) -> Path:
        return self.root / ".tensorboard.lock"

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    def start(self) -> TensorBoardServer:
        """The running server, started (or started anew) when there is none that answers.

        Raises RunError ``tensorboard-failed`` when it does not come up.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with hold_lock(self._lock, wait_seconds=START_SECONDS + STOP_SECONDS):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            running = self.find()
            if running:
                return running
            self._end_recorded()
            return self._launch()

    def find(self) -> TensorBoardServer | None:
        """The server, when it runs and has proved to be ours; None otherwise."""
        server = self._recorded()
        return server if server and is_alive(server.process) and self._is_ours(server) else None

    def stop(self) -> bool:
        """End the server and remove what it left; False when there was none."""
        if not self._folder.is_dir():
            return False
        with hold_lock(self._lock, wait_seconds=START_SECONDS + STOP_SECONDS):
            ended = self._end_recorded()
            shutil.rmtree(self._folder, ignore_errors=True)
        return ended

    def _recorded(self) -> TensorBoardServer | None:
        try:
            return read_record(self._record, lambda value: record_from_json(TensorBoardServer, value))
        except RunError:
            return None

    def _launch(self) -> TensorBoardServer:
        secret = secrets.token_urlsafe(16)
        self._log.unlink(missing_ok=True)
        command = [sys.executable, "-P", "-m", "tensorboard.main"]
        options = {
            "--logdir": str(self.root),
            "--host": HOST,
            "--port": "0",
            "--path_prefix": f"/{secret}",
            "--reload_multifile": "true",
            "--load_fast": "false",
        }
        command += [f"{name}={value}" for name, value in options.items()]
        environ = {
            **os.environ,
            "TMPDIR": str(self._folder),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore",
        }
        process = identify_started(spawn_detached(command, log=self._log, environ=environ))
        # Written before it answers, so that a starter killed here leaves a server that the next one ends.
        write_json_durably(self._record, record_to_json(TensorBoardServer(process, 0, secret)))
        server = self._await(process, secret)
        write_json_durably(self._record, record_to_json(server))
        return server

    def _await(self, process: ProcessIdentity, secret: str) -> TensorBoardServer:
        deadline = time.monotonic() + START_SECONDS
        while is_alive(process) and time.monotonic() < deadline:
            found = re.search(
                rf"http://{re.escape(HOST)}:(\d+)/", self._log.read_text("utf-8", errors="replace")
            )
            server = TensorBoardServer(process, int(found[1]), secret) if found else None
            if server and self._is_ours(server):
                return server
            time.sleep(POLL_SECONDS)
        last_words = self._log.read_text("utf-8", errors="replace").strip().splitlines()[-1:]
        end_process(process, patience_seconds=STOP_SECONDS)
        raise RunError(
            f"TensorBoard did not start. {' '.join(last_words)}".strip(),
            remedy="Check the installation with: tunesmith doctor",
            code="tensorboard-failed",
        )

    def _is_ours(self, server: TensorBoardServer) -> bool:
        """Whether what answers on the port knows the secret and serves this very folder."""
        answer = ask_json(server.port, f"/{server.secret}/data/environment", timeout_seconds=_ANSWER_SECONDS)
        return answer.get("data_location") == str(self.root)

    def _end_recorded(self) -> bool:
        server = self._recorded()
        return server is not None and end_process(server.process, patience_seconds=STOP_SECONDS)
