"""The studio as an ASGI app that refuses pages of other sites; ``python -m app`` runs it."""

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
    """Middleware that refuses requests from pages of other sites in the same browser.

    Streamlit accepts every page of this machine, whatever its port. Here ``Origin``, which browsers send, must be the
    requested address itself, and ``Host`` a loopback name, since any other name could be pointed at this machine (DNS
    rebinding).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request or a connection on, or refuse it (HTTP 403, WebSocket 1008)."""
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
