"""``python -m tests.imports``: imports modules one by one, each in a fresh fork, and says what each import did.

Standard input is a JSON object: ``preload``, statements to run first, and ``modules``, what to import. Standard
output is a JSON object: module → {"error", "did", "threads"}.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import traceback
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EVENTS = frozenset(
    [
        *("socket.__new__", "socket.connect", "socket.bind", "_thread.start_new_thread", "subprocess.Popen"),
        *("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
        *("os.system", "os.fork", "os.exec", "os.posix_spawn", "os.putenv", "os.chdir", "signal.signal"),
    ]
)


def _look_at(module: str) -> dict[str, Any]:
    did: list[str] = []
    watching = True

    def watch(event: str, given: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(given[2], int) and given[2] & _WRITING
        if watching and (event in _EVENTS or writes):
            did.append(f"{event} {given!r}"[:200])

    sys.addaudithook(watch)
    error = ""
    try:
        importlib.import_module(module)
    except BaseException:  # noqa: BLE001 - all of it is the answer
        error = traceback.format_exc()
    watching = False
    return {"error": error, "did": did, "threads": threading.active_count()}


def _in_a_fork(module: str) -> dict[str, Any]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(writer, "w") as stream:
            json.dump(_look_at(module), stream)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        answer: dict[str, Any] = json.load(stream)
    os.waitpid(child, 0)
    return answer


def main() -> None:
    """Answer one question."""
    asked = json.load(sys.stdin)
    for statement in asked["preload"]:
        exec(statement, {})  # noqa: S102 - imports that the test found in our own files
    assert not any(name.split(".")[0] == "backend" for name in sys.modules)
    json.dump({module: _in_a_fork(module) for module in asked["modules"]}, sys.stdout)


if __name__ == "__main__":
    main()
