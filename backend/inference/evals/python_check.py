"""A person's own check: a Python function that runs in a process of its own, with a limit on its time.

It is somebody's code, so it runs only where it is asked for. The process stays between calls and is ended with
``close``; after a call that took too long it is killed, and the next call starts another.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import IO, Any, cast

from backend.errors import InferenceError
from backend.inference.evals.assertion import Assertion
from backend.inference.evals.verdicts import Answer, Row, Score, UndecidedError
from backend.utils.text_utils import shorten

MAX_SECONDS = 5.0
START_SECONDS = 60.0
"""What the process may take to start and to import the file."""
MAX_REPLY_BYTES = 100_000
DEFAULT_FUNCTION = "get_assert"
_CHILD = Path(__file__).with_name("python_child.py")


class PythonCheck:
    """Calls ``function(text, context)`` of a file; ``context`` has ``vars``, the row, and ``prompt``.

    That is promptfoo's form. It returns True or False, a number from 0 to 1, or a mapping with ``pass``, ``score``
    and ``reason``.
    """

    def __init__(
        self, file: Path, function: str, threshold: float | None, seconds: float = MAX_SECONDS
    ) -> None:
        self._file, self._function = file, function
        self._threshold, self._seconds = threshold, seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._one_at_a_time = Lock()

    def __call__(self, answer: Answer, row: Row) -> Score:
        """Return what the function says. Raises UndecidedError where it fails, hangs or returns something else."""
        question = {"text": answer.text, "context": {"vars": dict(row), "prompt": row.get("prompt")}}
        with self._one_at_a_time:
            reply = self._asked(json.dumps(question, default=str).encode())
        if "error" in reply:
            raise UndecidedError(f"{self._told()} failed: {shorten(str(reply['error']), 200)}.")
        return self._score(reply["value"])

    def close(self) -> None:
        """End the process."""
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)  # with what the function has started
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                cast("IO[bytes]", pipe).close()
        child.wait()

    def prove(self) -> None:
        """Start the process, so that a file that cannot be used is told of before a model is asked.

        Raises InferenceError ``bad-python-check``.
        """
        try:
            self._start()
        except UndecidedError as error:
            raise self._unusable(str(error)) from error
        finally:
            self.close()

    def _unusable(self, why: str) -> InferenceError:
        return InferenceError(
            f"{self._file} cannot be used as a check: {shorten(why, 200).rstrip('.')}.",
            remedy=f"Give a file with a function {self._function}(output, context).",
            code="bad-python-check",
        )

    def _told(self) -> str:
        return f"{self._function} of {self._file.name}"

    def _asked(self, question: bytes) -> Mapping[str, Any]:
        child = self._child or self._start()
        to_child = cast("IO[bytes]", child.stdin)
        try:
            to_child.write(question + b"\n")
            to_child.flush()
        except OSError:
            self.close()
            raise UndecidedError(f"{self._told()} ended its process.") from None
        return self._reply(child, self._seconds)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(_CHILD), str(self._file), self._function]
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._child = child
        ready = self._reply(child, START_SECONDS)
        if "error" in ready:
            self.close()
            raise self._unusable(str(ready["error"]))
        return child

    def _reply(self, child: subprocess.Popen[bytes], seconds: float) -> Mapping[str, Any]:
        """Return the next line of the process, which is killed if none comes in time."""
        pipe = cast("IO[bytes]", child.stdout).fileno()
        ends, line = time.monotonic() + seconds, b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([pipe], [], [], max(0.0, ends - time.monotonic()))
            piece = os.read(pipe, 65_536) if ready else b""
            if not piece or len(line) > MAX_REPLY_BYTES:
                self.close()
                why = "ended its process" if ready else f"took longer than {seconds:g} seconds"
                raise UndecidedError(f"{self._told()} {why}.")
            line += piece
        reply: Mapping[str, Any] = json.loads(line)
        return reply

    def _score(self, value: Any) -> Score:
        found = (
            value
            if isinstance(value, dict)
            else {"pass": value}
            if isinstance(value, bool)
            else {"score": value}
        )
        passed, score = found.get("pass"), found.get("score")
        if score is None and isinstance(passed, bool):
            score = float(passed)
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise UndecidedError(
                f"{self._told()} returned {shorten(str(value), 60)}, not a number from 0 to 1."
            )
        if not isinstance(passed, bool):
            passed = score > 0 if self._threshold is None else score >= self._threshold
        elif self._threshold is not None:
            passed = passed and score >= self._threshold
        return Score(passed, float(score), "" if passed else str(found.get("reason") or f"It got {score:g}."))


def python_check(asked: Assertion, folder: Path, *, allowed: bool) -> PythonCheck:
    """Return the check that an assertion means: ``file.py:function`` beside its file. Raises ConfigError."""
    if not isinstance(asked.value, str):
        raise asked.refused("value", "There is no file.", "Write file.py:function.")
    if not allowed:
        raise asked.refused(
            "value", "It would run the code of a file.", "Read the file, and if you trust it, allow `python`."
        )
    place, _, function = asked.value.removeprefix("file://").partition(":")
    file = folder / place
    if file.suffix != ".py" or not file.is_file():
        raise asked.refused(
            "value",
            f"There is no file {file}.",
            "Write file.py:function; code in the value itself is not run.",
        )
    check = PythonCheck(file, function or DEFAULT_FUNCTION, asked.threshold)
    check.prove()
    return check
