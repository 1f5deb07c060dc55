"""The inference server for a folder of runs: one per folder, on loopback.

The server holds a lock in the folder and writes the record with its address itself. The model is in its process.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from backend.errors import NextStep
from backend.manager.loopback import HOST, LoopbackManager, ask_json
from backend.manager.programs import SERVER, child_environ, python_command
from backend.utils.lock_utils import is_locked
from backend.utils.process_utils import ProcessIdentity

_ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class InferenceServer:
    """One server: its process, its port, and the name that it alone answers to."""

    process: ProcessIdentity
    port: int
    instance: str

    @property
    def url(self) -> str:
        """The base URL for OpenAI clients on this machine."""
        return f"http://{HOST}:{self.port}/v1"


class ServerManager(LoopbackManager[InferenceServer]):
    """The inference server over ``root``. ``start`` raises RunError ``server-failed``."""

    kind = InferenceServer
    folder_name = ".server"
    start_seconds = 120.0
    stop_seconds = 10.0
    failure = ("The server did not start.", "server-failed", NextStep.SERVE)

    def _launch(self) -> InferenceServer:
        instance = secrets.token_hex(16)
        self._record.unlink(missing_ok=True)
        arguments = [str(self.root), str(self._folder), instance]
        process = self._spawn(
            python_command(SERVER, *arguments, unbuffered=True),
            {**child_environ(), "PYTHONWARNINGS": "ignore"},
        )

        def came_up() -> InferenceServer | None:
            server = self.find()
            return server if server and server.instance == instance else None

        return self._await(process, came_up)

    def _is_ours(self, server: InferenceServer) -> bool:
        if not is_locked(self._folder / "alive.lock"):
            return False
        answer = ask_json(server.port, "/health", timeout_seconds=_ANSWER_SECONDS)
        return answer.get("instance") == server.instance
