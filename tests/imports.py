"""``python -m tests.imports``: imports modules one by one and says what each import did.

One process is enough: our imports form no cycle, which another test sees to, so that whoever comes first only
does the others' work earlier.

Standard input is a JSON object: ``preload``, statements to run first, and ``modules``, what to import. Standard
output is a JSON object: module → {"error", "did", "threads"}.
"""

from __future__ import annotations

import atexit
import gc
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


_did: list[str] = []


def _watch(event: str, given: tuple[Any, ...]) -> None:
    writes = event == "open" and isinstance(given[2], int) and given[2] & _WRITING
    if event in _EVENTS or writes:
        _did.append(f"{event} {given!r}"[:200])


def _look_at(module: str) -> dict[str, Any]:
    _did.clear()
    error = ""
    try:
        importlib.import_module(module)
    except BaseException:  # noqa: BLE001 - all of it is the answer
        error = traceback.format_exc()
    return {"error": error, "did": [*_did], "threads": threading.active_count()}


def main() -> None:
    """Answer one question."""
    gc.disable()  # thousands of modules are about to come, to stay, and to go with the process
    atexit.register(gc.freeze)
    asked = json.load(sys.stdin)
    for statement in asked["preload"]:
        exec(statement, {})  # noqa: S102 - imports that the test found in our own files
    assert not any(name.split(".")[0] == "backend" for name in sys.modules)
    sys.addaudithook(_watch)
    json.dump({module: _look_at(module) for module in asked["modules"]}, sys.stdout)


if __name__ == "__main__":
    main()
