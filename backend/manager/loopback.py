"""A server of ours on this machine: at most one of a kind per folder, identified, and ended with certainty."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from backend.errors import NextStep, RunError
from backend.run.records import read_record
from backend.utils.detach import spawn_detached
from backend.utils.lock_utils import hold_lock
from backend.utils.process_utils import ProcessIdentity, identify_started, is_alive, send_signal
from backend.utils.record_utils import record_from_json

HOST = "127.0.0.1"
POLL_SECONDS = 0.05
_LONGEST_ANSWER_BYTES = 65536


class Server(Protocol):
    """A running server: its process, its port, and what identifies it."""

    @property
    def process(self) -> ProcessIdentity:
        """The process that serves."""

    @property
    def port(self) -> int:
        """The port on loopback."""


S = TypeVar("S", bound=Server)


class LoopbackManager(ABC, Generic[S]):
    """The one server of its kind over ``root``. It keeps no state of its own, so any number of doors may have one.

    The server outlives its starter; whoever looks next finds it by the record ``server.json`` in its folder.
    """

    kind: ClassVar[type[Any]]
    """The record of a server, S."""
    folder_name: ClassVar[str]
    start_seconds: ClassVar[float]
    stop_seconds: ClassVar[float]
    failure: ClassVar[tuple[str, str, NextStep]]
    """What a person is told when it does not come up: the sentence, the code, and what to do next."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._folder = self.root / self.folder_name
        self._starting = self.root / f"{self.folder_name}.lock"
        self._record = self._folder / "server.json"

    @property
    def log(self) -> Path:
        """The log file of the server."""
        return self._folder / "server.log"

    def start(self) -> S:
        """The running server, started (or started anew) when there is none that answers.

        Raises RunError when it does not come up.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with hold_lock(self._starting, wait_seconds=self.start_seconds + self.stop_seconds):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            running = self.find()
            if running:
                return running
            self._end_recorded()
            return self._launch()

    def find(self) -> S | None:
        """The server, when it runs and has proved to be ours; None otherwise."""
        server = self._recorded()
        return server if server and is_alive(server.process) and self._is_ours(server) else None

    def stop(self) -> bool:
        """End the server and remove what it left; False when there was none."""
        if not self._folder.is_dir():
            return False
        with hold_lock(self._starting, wait_seconds=self.start_seconds + self.stop_seconds):
            ended = self._end_recorded()
            shutil.rmtree(self._folder, ignore_errors=True)
        return ended

    @abstractmethod
    def _launch(self) -> S:
        """A new server that answers and is recorded. Raises RunError."""

    @abstractmethod
    def _is_ours(self, server: S) -> bool:
        """Return whether the server that answers on the port is this one."""

    def _recorded(self) -> S | None:
        try:
            return read_record(self._record, lambda value: record_from_json(self.kind, value))
        except RunError:
            return None

    def _spawn(self, command: Sequence[str], environ: Mapping[str, str]) -> ProcessIdentity:
        self.log.unlink(missing_ok=True)
        return identify_started(spawn_detached(command, log=self.log, environ=environ))

    def _await(self, process: ProcessIdentity, came_up: Callable[[], S | None]) -> S:
        deadline = time.monotonic() + self.start_seconds
        while is_alive(process) and time.monotonic() < deadline:
            server = came_up()
            if server:
                return server
            time.sleep(POLL_SECONDS)
        end_process(process, patience_seconds=self.stop_seconds)
        last_words = self._said().strip().splitlines()[-1:]
        what, code, next_step = self.failure
        remedy = "Mend that, and try again."
        raise RunError(" ".join([what, *last_words]), remedy=remedy, code=code, next_step=next_step)

    def _said(self) -> str:
        return self.log.read_text("utf-8", errors="replace")

    def _end_recorded(self) -> bool:
        server = self._recorded()
        return server is not None and end_process(server.process, patience_seconds=self.stop_seconds)


def ask_json(port: int, path: str, *, timeout_seconds: float) -> dict[str, object]:
    """The JSON object that a server on this machine answers to GET ``path``; empty where it gives none."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_seconds)
    try:
        connection.request("GET", path)
        answer = json.loads(connection.getresponse().read(_LONGEST_ANSWER_BYTES))
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else {}


def end_process(process: ProcessIdentity, *, patience_seconds: float) -> bool:
    """SIGTERM, and SIGKILL after ``patience_seconds``; False when the process was gone already."""
    was_alive = send_signal(process, signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    while is_alive(process) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if is_alive(process):
        send_signal(process, signal.SIGKILL)
    return was_alive
