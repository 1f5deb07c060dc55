"""Access to the server: this machine's own pages and programs, or whoever has the token; and the size of a body."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.server.errors import ApiError

READ_AND_FORGET_BYTES = 64 * 2**20
"""A body that is too large is still read to its announced end, up to this: few clients listen while they send."""
_OPEN = frozenset({"/health"})


class Guard:
    """Refuses requests of strangers before anything reads them.

    On loopback, ``Host`` must be a loopback name, so that a page whose name was pointed at this machine (DNS
    rebinding) is turned away; ``Origin``, which browsers send, must be one too. With ``token`` every request but
    that for health must carry it.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool, token: str | None) -> None:
        self._app = app
        self._loopback = loopback
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through or answer it with 401 or 403."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope), scope["path"])
        if refusal is None:
            await self._app(scope, receive, send)
            return
        response = JSONResponse(refusal.body(), refusal.status, headers=refusal.headers)
        await response(scope, receive, send)

    def _refusal(self, headers: Headers, path: str) -> ApiError | None:
        if self._loopback and not is_loopback(_host_of(headers.get("host", ""))):
            return ApiError(
                403, "This Host is not served; send to 127.0.0.1 or localhost.", code="host_not_allowed"
            )
        origin = headers.get("origin")
        if origin is not None and not self._is_allowed(origin, headers.get("host", "")):
            return ApiError(403, "Pages of other origins are not served.", code="origin_not_allowed")
        if self._token is not None and path not in _OPEN:
            given = headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not secrets.compare_digest(given.encode(), self._token.encode()):
                challenge = {"WWW-Authenticate": "Bearer"}
                return ApiError(
                    401, "Send the server's token as API key.", code="bad_token", headers=challenge
                )
        return None

    def _is_allowed(self, origin: str, host: str) -> bool:
        """Return whether a page may send requests: one of this machine, or of the very host it sends them to."""
        try:
            name = urlsplit(origin).hostname or ""
        except ValueError:
            return False
        return is_loopback(name) if self._loopback else name != "" and name == _host_of(host)


def is_loopback(host: str) -> bool:
    """Return whether only this machine itself can be meant by a name or address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_of(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


async def read_body(request: Request, *, limit: int, seconds: float) -> bytes:
    """Return the JSON body of a request. Raises ApiError 408, 413 or 415, and ClientDisconnect."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "Send JSON with Content-Type: application/json.", code="not_json")
    announced = request.headers.get("content-length", "")
    length = int(announced[:20]) if announced.isdecimal() else 0
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                size += len(piece)
                if size <= limit:
                    body += piece
                elif not size <= length <= READ_AND_FORGET_BYTES:
                    raise _too_large(limit)
    except TimeoutError as error:
        raise ApiError(408, "The body did not come in time.", code="body_timeout") from error
    if size > limit:
        raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> ApiError:
    # the rest is not read, so this connection cannot be used again
    return ApiError(
        413,
        f"The body is larger than {limit:,} bytes.",
        code="body_too_large",
        headers={"Connection": "close"},
    )


async def disconnected(request: Request) -> None:
    """Wait until the client has gone. The body must have been read."""
    try:
        while (await request.receive())["type"] != "http.disconnect":
            pass
    except ClientDisconnect:
        return
