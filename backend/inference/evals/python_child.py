"""Runs a person's function in a process of its own; started by ``python_check`` with a file and a name.

It imports nothing of ours. A line of JSON in is a call, a line of JSON out its result. What the function prints goes
to standard error, so that it cannot be taken for a result.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from typing import Any


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | dict | list) or value is None else str(value)


def main(file: str, function: str) -> None:
    """Answer calls until the input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply, default=str) + "\n")
        replies.flush()

    sys.path[0] = os.path.dirname(os.path.abspath(file))  # noqa: PTH100, PTH120 - as Python does for a script
    try:
        call = runpy.run_path(file)[function]
    except KeyError:
        say({"error": f"it has no function {function}"})
        return
    except BaseException as error:  # noqa: BLE001 - it is somebody's code
        say({"error": f"{type(error).__name__}: {error}"})
        return
    say({"value": "ready"})
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            say({"value": _plain(call(asked["text"], asked["context"]))})
        except Exception as error:  # noqa: BLE001
            say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(*sys.argv[1:])
