"""The server's process: its socket, the application and the engine. See docs/serving.md.

``python -m backend.server.process ROOT FOLDER INSTANCE`` is how the server manager starts one.
"""

from __future__ import annotations

from backend.utils.process_utils import collect_as_usual, collect_rarely, identify

if __name__ == "__main__":  # before torch and transformers are imported
    collect_rarely()

import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import uvicorn

from backend.errors import ConfigError, Problem, RunError
from backend.run.folder import RunDir
from backend.server.app import make_app
from backend.server.catalogue import Catalogue
from backend.server.engine import Engine, Limits
from backend.server.guard import is_loopback
from backend.server.metrics import Metrics
from backend.server.service import Service
from backend.utils.file_utils import write_json_durably
from backend.utils.lock_utils import LockedError, hold_lock

TOKEN_VARIABLE = "TUNESMITH_SERVER_TOKEN"  # noqa: S105 - the name of a variable
ANSWER_SECONDS = 600.0


@dataclass(frozen=True)
class ServerOptions:
    """The settings of a server: its models, its address and its limits.

    ``base_model`` is where the base of runs lies now, if it was moved. ``port`` 0 takes a free one; ``/health`` shows
    ``instance``, by which a manager knows the server that it started, and ``precision``, see ``inference/engines``.
    """

    root: Path | None = None
    models: tuple[RunDir | str, ...] = ()
    base_model: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    limits: Limits = field(default_factory=Limits)
    precision: str = "exact"
    instance: str = field(default_factory=lambda: secrets.token_hex(8))


def serve(options: ServerOptions, *, ready: Callable[[str, int], None] = lambda *_: None) -> None:
    """Serve until SIGINT or SIGTERM; ``ready`` gets host and port once they answer. Raises as ``opened``."""
    with opened(options) as (server, listener):
        collect_as_usual()
        ready(options.host, listener.getsockname()[1])
        server.run(sockets=[listener])


@contextmanager
def opened(options: ServerOptions) -> Iterator[tuple[uvicorn.Server, socket.socket]]:
    """Yield the server and its listening socket; ``server.run(sockets=[…])`` serves.

    Raises ConfigError ``token-required`` for an address other than loopback without a token, and RunError
    ``address-in-use``.
    """
    token = os.environ.get(TOKEN_VARIABLE) or None
    loopback = is_loopback(options.host)
    if not loopback and token is None:
        raise ConfigError(
            [
                Problem(
                    "host",
                    f"{options.host} can be reached by others, so clients must show a token.",
                    f"Set {TOKEN_VARIABLE}, or stay on 127.0.0.1.",
                )
            ],
            code="token-required",
        )
    metrics = Metrics()
    service = Service(
        engine=Engine(options.limits, metrics, options.precision),
        catalogue=Catalogue(options.root, options.models, options.base_model),
        metrics=metrics,
        answer_seconds=ANSWER_SECONDS,
        instance=options.instance,
        version=_version(),
    )
    config = uvicorn.Config(
        make_app(service, loopback=loopback, token=token),
        http="h11",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=5,
    )
    with _listen(options.host, options.port) as listener:
        yield uvicorn.Server(config), listener


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise RunError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}.",
            remedy="Choose another port with --port; 0 takes a free one.",
            code="address-in-use",
        ) from error


def _version() -> str:
    try:
        return version("tunesmith")
    except PackageNotFoundError:
        return "unknown"


def main(argv: Sequence[str]) -> int:
    """Serve the runs under a root on a free port of loopback, which is written to ``folder/server.json``.

    ``folder/alive.lock`` is held as long as the process lives. Returns the exit code: 2 when another server holds it.
    """
    root, folder, instance = Path(argv[0]), Path(argv[1]), argv[2]

    def announce(_: str, port: int) -> None:
        record = {"process": asdict(identify(os.getpid())), "port": port, "instance": instance}
        write_json_durably(folder / "server.json", record)

    try:
        with hold_lock(folder / "alive.lock"):
            serve(ServerOptions(root=root, port=0, instance=instance), ready=announce)
    except LockedError:
        sys.stderr.write("Another server is at work over this folder.\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
