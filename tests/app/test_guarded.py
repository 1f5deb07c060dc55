"""Who may ask the studio: app/guarded.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.guarded import MAIN, OwnPagesOnly, app

HOST = "127.0.0.1:8501"


def asked(kind: str, headers: dict[str, str]) -> list[str]:
    """What comes back: "in" where the request went through, else the kinds of messages."""
    told: list[str] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        told.append("in")

    async def send(message: Message) -> None:
        told.append(f"{message['type']} {message.get('status', message.get('code', ''))}".strip())

    async def receive() -> Message:
        return {"type": "http.request"}

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope: dict[str, Any] = {"type": kind, "path": "/", "method": "GET", "headers": raw}
    asyncio.run(OwnPagesOnly(inner)(scope, receive, send))
    return told


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "headers",
    [
        {"host": HOST},
        {"host": HOST, "origin": f"http://{HOST}"},
        {"host": "localhost:8501", "origin": "http://localhost:8501"},
        {"host": "[::1]:8501", "origin": "http://[::1]:8501"},
    ],
)
def test_the_own_pages_are_let_in(kind: str, headers: dict[str, str]) -> None:
    assert asked(kind, headers) == ["in"]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": HOST, "origin": "http://evil.example"},
        {"host": HOST, "origin": "http://127.0.0.1:9999"},
        {"host": HOST, "origin": "http://localhost:8501"},
        {"host": HOST, "origin": f"https://{HOST}"},
        {"host": HOST, "origin": "null"},
        {"host": HOST, "origin": ""},
        {"host": "evil.example", "origin": "http://evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "[::1"},
        {},
    ],
)
def test_pages_of_others_are_not(headers: dict[str, str]) -> None:
    assert asked("http", headers)[0] == "http.response.start 403"
    assert asked("websocket", headers) == ["websocket.close 1008"]


def test_starting_and_ending_are_no_request() -> None:
    assert asked("lifespan", {}) == ["in"]


def test_the_studio_is_served_behind_it() -> None:
    assert MAIN.is_file()
    assert [each.cls for each in app._user_middleware] == [OwnPagesOnly]
