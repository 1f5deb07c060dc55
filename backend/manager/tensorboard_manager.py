"""The TensorBoard server for a folder of runs: one per folder, on loopback, in a process of its own.

To read the numbers themselves see ``scalars`` (our runs) and ``event_files`` (files of any program).
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from dataclasses import dataclass

from backend.errors import NextStep
from backend.manager.loopback import HOST, LoopbackManager, ask_json
from backend.utils.file_utils import write_json_durably
from backend.utils.process_utils import ProcessIdentity
from backend.utils.record_utils import record_to_json

_ANSWER_SECONDS = 2.0
_ADDRESS = re.compile(rf"http://{re.escape(HOST)}:(\d+)/")


@dataclass(frozen=True)
class TensorBoardServer:
    """One server: its process, its port, and the secret part of its address."""

    process: ProcessIdentity
    port: int
    secret: str

    @property
    def url(self) -> str:
        """The address for a browser on this machine."""
        return f"http://{HOST}:{self.port}/{self.secret}/"


class TensorBoardManager(LoopbackManager[TensorBoardServer]):
    """The TensorBoard server over ``root``. ``start`` raises RunError ``tensorboard-failed``."""

    kind = TensorBoardServer
    folder_name = ".tensorboard"
    start_seconds = 60.0
    stop_seconds = 5.0
    failure = ("TensorBoard did not start.", "tensorboard-failed", NextStep.CHECK_INSTALLATION)

    def _launch(self) -> TensorBoardServer:
        secret = secrets.token_urlsafe(16)
        options = {
            "--logdir": str(self.root),
            "--host": HOST,
            "--port": "0",
            "--path_prefix": f"/{secret}",
            "--reload_multifile": "true",
            "--load_fast": "false",
        }
        environ = {
            **os.environ,
            "TMPDIR": str(self._folder),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore",
        }
        flags = [f"{name}={value}" for name, value in options.items()]
        process = self._spawn([sys.executable, "-P", "-m", "tensorboard.main", *flags], environ)
        # Written before it answers, so that a starter killed here leaves a server that the next one ends.
        self._note(TensorBoardServer(process, 0, secret))

        def came_up() -> TensorBoardServer | None:
            found = _ADDRESS.search(self._said())
            server = TensorBoardServer(process, int(found[1]), secret) if found else None
            return server if server and self._is_ours(server) else None

        server = self._await(process, came_up)
        self._note(server)
        return server

    def _note(self, server: TensorBoardServer) -> None:
        write_json_durably(self._record, record_to_json(server))

    def _is_ours(self, server: TensorBoardServer) -> bool:
        """It knows the secret and serves this very folder."""
        answer = ask_json(server.port, f"/{server.secret}/data/environment", timeout_seconds=_ANSWER_SECONDS)
        return answer.get("data_location") == str(self.root)
