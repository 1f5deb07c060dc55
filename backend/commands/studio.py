"""``tunesmith studio``: the studio in a browser, on this machine only."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from backend.commands.output import say
from backend.errors import RunError
from backend.manager.alerts import check_environ
from backend.manager.programs import child_environ, python_command

HOST = "127.0.0.1"
USUAL_PORT = 8501
_TRIES = 20


def studio(
    *,
    root: Annotated[Path, Parameter(help="Folder to work in; the runs are in its folder runs.")] = Path(),
    port: Annotated[
        int | None, Parameter(help="Port to listen on; if left out, 8501 or whichever is free.")
    ] = None,
    no_browser: Annotated[bool, Parameter(negative=(), help="Do not open a browser.")] = False,
) -> int:
    """Open the studio: the whole journey in a browser. It listens on this machine only, until Ctrl-C.

    Example
    -------
    tunesmith studio
    """
    check_environ(os.environ)
    if root.exists() and not root.is_dir():
        raise RunError(
            f"{root} is a file.",
            remedy="Name a folder with --root; it holds runs and data.",
            code="not-a-folder",
        )
    with _free_port() if port is None else _checked(port) as reserved:
        reserved.set_inheritable(True)  # the studio holds it as long as it lives
        chosen = reserved.getsockname()[1]
        say(f"The studio is at http://{HOST}:{chosen}\nCtrl-C ends it. Runs go on without it.")
        sys.stdout.flush()
        command = studio_command(chosen, headless=no_browser)
        os.execve(sys.executable, command, studio_environment(root))  # noqa: S606 - ours; Ctrl-C reaches it


def studio_command(port: int, *, headless: bool) -> list[str]:
    """The command line that serves the studio on ``port``.

    What must hold is said here, where nothing overrides it: Streamlit also reads ``.streamlit/config.toml`` of the
    folder that the studio is started in, which may be anybody's, and of the person's home.
    """
    origin = f"http://{HOST}:{port}"
    options = {
        "server.address": (HOST,),
        "server.port": (port,),
        "server.allowedHosts": (HOST, "localhost"),
        "server.enableCORS": ("true",),
        "server.corsAllowedOrigins": (origin,),
        "server.enableXsrfProtection": ("true",),
        "server.xsrfCookieSameSite": ("lax",),
        "server.baseUrlPath": ("",),
        "server.customComponentBaseUrlPath": ("",),
        "server.enableAgentApi": ("false",),
        "server.enableStaticServing": ("false",),
        "server.fileWatcherType": ("none",),
        "server.runOnSave": ("false",),
        "server.sslCertFile": ("",),
        "server.sslKeyFile": ("",),
        "browser.gatherUsageStats": ("false",),
        "browser.serverAddress": (HOST,),
        "browser.serverPort": (port,),
        "client.allowedOrigins": (origin,),
        "client.showErrorDetails": ("none",),
        "global.developmentMode": ("false",),
        "runner.magicEnabled": ("false",),
        **({"server.headless": ("true",)} if headless else {}),
    }
    flags = [f"--{name}={value}" for name, values in options.items() for value in values]
    return list(python_command("app", *flags))


def studio_environment(root: Path) -> dict[str, str]:
    """Ours, with the studio's folder, and our own code first on the path.

    Settings of Streamlit are left out, and cookies are signed with a secret that no file knows.
    """
    kept = {name: value for name, value in child_environ().items() if not name.startswith("STREAMLIT_")}
    kept["STREAMLIT_SERVER_COOKIE_SECRET"] = secrets.token_hex(32)
    return {**kept, "TUNESMITH_ROOT": str(root.absolute())}


def _free_port() -> socket.socket:
    for port in (USUAL_PORT, *[0] * _TRIES):
        if (reserved := _reserve(port)) is not None:
            return reserved
    raise RunError(f"No free port was found on {HOST}.", remedy="Give one with --port.", code="port-taken")


def _checked(port: int) -> socket.socket:
    if not 0 < port < 65_536:
        raise RunError(f"{port} is no port.", remedy="Give one from 1 to 65535, or none.", code="bad-port")
    if (reserved := _reserve(port)) is None:
        raise RunError(
            f"Port {port} is taken on {HOST}.",
            remedy="Give another with --port, or leave it out.",
            code="port-taken",
        )
    return reserved


def _reserve(port: int) -> socket.socket | None:
    """What keeps the port (0: any that is free) from other studios until it is closed; None if it is taken.

    A studio takes seconds to load before it listens. The UDP port of the same number is held meanwhile: the system
    gives it to one process, frees it when that ends, however it ends, and nobody else wants it.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved = socket.socket(type=socket.SOCK_DGRAM)
        try:
            listener.bind((HOST, port))
            reserved.bind(listener.getsockname())
        except OSError:
            reserved.close()
            return None
        return reserved
