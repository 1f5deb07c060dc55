"""Waiting for something real to happen, with a deadline in place of a sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T], *, timeout_seconds: float = 20.0) -> T:
    """The first true answer of ``look``; fails when there is none before the deadline."""
    deadline = time.monotonic() + timeout_seconds
    while not (answer := look()):
        assert time.monotonic() < deadline, f"nothing happened within {timeout_seconds} s"
        time.sleep(0.01)
    return answer
