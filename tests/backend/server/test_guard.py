"""Who is let in: backend/server/guard.py. Hosts, origins and bodies are tried over HTTP in test_app."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from backend.server.errors import ApiError
from backend.server.guard import Guard, disconnected, is_loopback, read_body

JSON = [(b"content-type", b"application/json")]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),  # noqa: S104 - it is refused
        ("192.168.0.1", False),
        ("localhost.evil.example", False),
        ("2130706433", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


async def _inner(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _status(guard: Guard, path: str = "/v1/models", **headers: str) -> int:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "headers": raw, "method": "GET"}
    asyncio.run(guard(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/models", {"authorization": "Bearer right"}, 200),
        ("/v1/models", {"authorization": "right"}, 200),
        ("/v1/models", {"authorization": "Bearer wrong"}, 401),
        ("/v1/models", {"authorization": "Bearer right\xe4"}, 401),
        ("/v1/models", {}, 401),
        ("/metrics", {}, 401),
        ("/health", {}, 200),
        ("/v1/models", {"authorization": "Bearer right", "origin": "http://evil.example"}, 403),
        ("/v1/models", {"authorization": "Bearer right", "origin": "http://my.host:1"}, 200),
    ],
)
def test_elsewhere_than_on_loopback_the_token_decides(
    path: str, headers: dict[str, str], status: int
) -> None:
    guard = Guard(_inner, loopback=False, token="right")

    assert _status(guard, path, host="my.host", **headers) == status


def test_on_loopback_a_token_is_wanted_where_there_is_one() -> None:
    assert _status(Guard(_inner, loopback=True, token="right"), host="localhost") == 401
    assert _status(Guard(_inner, loopback=True, token=None), host="localhost") == 200
    assert _status(Guard(_inner, loopback=True, token=None)) == 403


def _request(pieces: list[bytes], headers: list[tuple[bytes, bytes]], *, hangs: bool = False) -> Request:
    left = list(pieces)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60 if hangs and not left else 0)
        body = left.pop(0) if left else b""
        return {"type": "http.request", "body": body, "more_body": bool(left) or hangs}

    return Request({"type": "http", "headers": headers, "method": "POST"}, receive)


def test_a_body_in_pieces() -> None:
    body = asyncio.run(read_body(_request([b'{"a":', b"1}"], JSON), limit=100, seconds=5))

    assert body == b'{"a":1}'


@pytest.mark.parametrize(
    ("pieces", "headers", "status"),
    [
        ([b"{}"], [], 415),
        ([b"{}"], [(b"content-type", b"text/plain")], 415),
        ([b"x" * 6] * 3, JSON, 413),
        ([b"x" * 6] * 3, [*JSON, (b"content-length", b"18")], 413),
        ([b"x" * 6] * 3, [*JSON, (b"content-length", b"-5")], 413),
        ([b"x" * 6] * 3, [*JSON, (b"content-length", b"9" * 40)], 413),
    ],
)
def test_a_body_that_is_not_taken(
    pieces: list[bytes], headers: list[tuple[bytes, bytes]], status: int
) -> None:
    with pytest.raises(ApiError) as caught:
        asyncio.run(read_body(_request(pieces, headers), limit=10, seconds=5))

    assert caught.value.status == status


def test_a_body_that_does_not_come() -> None:
    with pytest.raises(ApiError) as caught:
        asyncio.run(read_body(_request([b"{"], JSON, hangs=True), limit=10, seconds=0.05))

    assert caught.value.status == 408


def test_a_client_who_goes_is_noticed() -> None:
    messages = iter([{"type": "http.request"}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, Any]:
        return next(messages)

    asyncio.run(disconnected(Request({"type": "http", "headers": []}, receive)))
    assert list(messages) == []
