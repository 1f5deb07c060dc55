"""The process that runs a person's own reward function: ``reward_child.py FILE FUNCTION``, a line of JSON per call.

It imports nothing of Tunesmith. Requests come on standard input as {"argument": value, …}; replies are {"ready":
true}, {"values": […]} or {"error": "…"}. What the function prints goes to standard error, and so into the run's log.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO


def load(file: Path, name: str) -> Callable[..., Any]:
    """Return the function ``name`` of a Python file, whose folder may hold what it imports."""
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look there
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        raise ImportError(f"{file.name} has no function {name}")  # noqa: TRY004 - nor any other value
    function: Callable[..., Any] = found
    return function


def answer(function: Callable[..., Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Return the values of one call, or what went wrong."""
    values = function(**asked)
    if inspect.iscoroutine(values):
        values = asyncio.run(values)
    return {"values": [None if value is None else float(value) for value in values]}


def serve(file: Path, name: str, requests: TextIO, replies: TextIO) -> None:
    """Answer requests until there are no more."""

    def reply(compute: Callable[[], dict[str, Any]]) -> bool:
        try:
            found = compute()
        except BaseException as error:  # noqa: BLE001 - whatever a stranger's code raises is reported
            found = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(found) + "\n")
        replies.flush()
        return "error" not in found

    functions: list[Callable[..., Any]] = []

    def start() -> dict[str, Any]:
        functions.append(load(file, name))
        return {"ready": True}

    if not reply(start):
        return
    for line in requests:
        asked = json.loads(line)
        reply(lambda asked=asked: answer(functions[0], asked))  # type: ignore[misc]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which then closes our input
    own_replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    own_requests = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what the function starts must not read requests
    serve(Path(sys.argv[1]), sys.argv[2], own_requests, own_replies)
