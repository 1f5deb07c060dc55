"""The studio as a server, closed to the pages of other sites; ``python -m app`` runs it."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit.starlette import App

MAIN = Path(__file__).with_name("main.py")


class OwnPagesOnly:
    """Refuse what a page of another site asks for in the same browser.

    Streamlit lets every page of this machine connect, whatever its port. Here ``Origin``, which browsers send, must
    be the very address that is asked, and ``Host`` a name of this machine: no other can be pointed at it (DNS
    rebinding).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request or a connection through, or answer it with 403."""
        if scope["type"] == "lifespan" or _is_own(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse("Pages of other sites are not served.", 403)(scope, receive, send)


def _is_own(headers: Headers) -> bool:
    host, origin = headers.get("host", ""), headers.get("origin")
    return _is_loopback(host) and origin in {None, f"http://{host}"}


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


app = App(MAIN, middleware=[Middleware(OwnPagesOnly)])
