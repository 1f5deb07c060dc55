"""A person's own reward function, called in a process of its own with a limit on its time."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from backend.core.encoding.prompts import Completion, Prompt
from backend.errors import ConfigError, Problem, RewardError
from backend.utils.path_utils import user_path

_CHILD = Path(__file__).with_name("reward_child.py")
_OWN = frozenset({"prompt", "prompts", "completion", "completions", "completion_ids"})
"""Columns that TRL passes as what was asked and answered, and not under their own name."""


class RewardFunction:
    """``file.py:function`` with TRL's parameters: prompts, completions, completion_ids, and every other column.

    It is called once per prompt, with the answers to it. A row that consists of messages gives messages, any other
    one texts. Raises ConfigError ``no-reward-file`` if there is no such file. Close it when done.
    """

    def __init__(self, setting: str, *, timeout: float) -> None:
        file, _, self._function = setting.rpartition(":")
        self._file, self._timeout = user_path(file), timeout
        self.name = self._function
        self._process: subprocess.Popen[str] | None = None
        if not self._file.is_file():
            problem = Problem("objective.reward_funcs", f"there is no file {file}.", "Give its path.")
            raise ConfigError([problem], code="no-reward-file")

    def __call__(self, prompt: Prompt, completions: Sequence[Completion]) -> list[float | None]:
        """Return the reward of each answer, None where there is none.

        Raises RewardError, naming the row: ``reward-failed`` for a function that raises, ends its process or cannot
        be loaded, ``reward-too-slow``, ``bad-reward`` for another number of values, or one that is not finite.
        """
        values = self._answered(prompt.row, _arguments(prompt, completions))
        if len(values) != len(completions):
            raise self._error(
                prompt.row,
                f"returned {len(values)} values for {len(completions)} answers",
                "Return one number, or None, for each of completions.",
                "bad-reward",
            )
        for value in values:
            if value is not None and not math.isfinite(value):
                raise self._error(
                    prompt.row,
                    f"returned {value}",
                    "Return a finite number, or None for an answer it says nothing about.",
                    "bad-reward",
                )
        return values

    def close(self) -> None:
        """End the process of the function, if it runs."""
        if self._process is not None:
            _end(self._process)
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with suppress(OSError):  # of what it never read
                        stream.close()
            self._process.wait()
            self._process = None

    def _answered(self, row: str, arguments: Mapping[str, Any]) -> list[float | None]:
        try:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(_CHILD), str(self._file), self._function],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                    start_new_session=True,  # to end it with all that it starts
                )
                self._reply(row, self._process)
            with suppress(BrokenPipeError):  # it ended by itself, which reading its reply will tell
                _pipe(self._process.stdin).write(json.dumps(arguments, default=str) + "\n")
                _pipe(self._process.stdin).flush()
            values: list[float | None] = self._reply(row, self._process)["values"]
        except BaseException:
            self.close()  # a new one begins with the next call
            raise
        return values

    def _reply(self, row: str, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Return the next reply; a process that takes too long is killed, which ends its replies."""
        too_slow = threading.Event()

        def end() -> None:
            too_slow.set()
            _end(process)

        timer = threading.Timer(self._timeout, end)
        timer.start()
        try:
            line = _pipe(process.stdout).readline()
            is_whole = line.endswith("\n")
            if not is_whole:  # it ended, or closed its replies
                process.wait()
        finally:
            timer.cancel()
        if too_slow.is_set():
            what = f"did not end within {self._timeout:g} seconds"
            raise self._error(
                row, what, "Raise objective.reward_timeout or mend the function.", "reward-too-slow"
            )
        reply: dict[str, Any] = (
            json.loads(line) if is_whole else {"error": f"its process ended ({process.returncode})"}
        )
        if "error" in reply:
            raise self._error(row, f"failed ({reply['error']})", "Mend the function.", "reward-failed")
        return reply

    def _error(self, row: str, what: str, remedy: str, code: str) -> RewardError:
        return RewardError(
            f"The reward function {self._function} of {self._file.name} {what}, asked about the answers to {row}.",
            remedy=f"{remedy} Then resume the run: nothing is lost.",
            code=code,
        )


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the process with all that it started, which would keep its replies open."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise ValueError("the process was started without pipes")
    return stream


def _arguments(prompt: Prompt, completions: Sequence[Completion]) -> dict[str, Any]:
    """Return what TRL would pass: every value a list with an entry for each answer."""
    texts: list[Any] = [completion.text for completion in completions]
    asked: Any = prompt.prompt
    if len(prompt.messages) != 1 or any(isinstance(cell, list) for cell in prompt.columns.values()):
        asked = [dict(message) for message in prompt.messages]
        texts = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {name: cell for name, cell in prompt.columns.items() if name not in _OWN}
    columns.setdefault("expected", prompt.expected)
    return {
        **{name: [cell] * len(completions) for name, cell in columns.items()},
        "prompts": [asked] * len(completions),
        "completions": texts,
        "completion_ids": [list(completion.ids) for completion in completions],
    }
