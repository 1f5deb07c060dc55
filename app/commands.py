"""Run ``tunesmith`` commands as child processes: heavy work is never done in the studio's own process.

A page calls ``ask``: it starts the command once, draws its progress with a Cancel button, and returns the answer.
Answers are cached by the command's arguments and ``version``, a fingerprint of what the command reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import streamlit as st

from app.phrases import what_to_do, without_marks
from app.views.text import plain
from backend.errors import MARKED_SETTING, NextStep, Problem, unmarked
from backend.manager.programs import COMMANDS, child_environ, python_command

KEPT = 64
POLL_SECONDS = 0.4
TIMEOUT_SECONDS = 900.0
_TERM_SECONDS = 5.0


@dataclass(frozen=True)
class Answer:
    """The result of a command: ``value`` from its JSON, or ``message`` and ``remedy`` of its error.

    ``settings``: the values that an error would give to settings, of several the first.
    """

    value: dict[str, Any]
    message: str = ""
    remedy: str = ""
    code: str = ""
    problems: tuple[Problem, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True if there is a value."""
        return not self.message


class Command:
    """One ``tunesmith … --json``, running or done; a thread waits for it, ends it in time and reads its output."""

    def __init__(self, words: Sequence[str], timeout_seconds: float) -> None:
        self.words = tuple(words)
        self.started = time.monotonic()
        self.answer: Answer | None = None
        self._cancelled = False
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - closed when read
        self._process = subprocess.Popen(
            python_command(COMMANDS, *self.words, "--json"),
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            env={**child_environ(), "PYTHONWARNINGS": "ignore", "NO_COLOR": "1"},
        )
        self._waiter = threading.Thread(target=self._wait, args=(timeout_seconds,), daemon=True)
        self._waiter.start()

    @property
    def seconds(self) -> float:
        """The seconds since it was started."""
        return time.monotonic() - self.started

    def cancel(self) -> None:
        """End the command; its answer is then "Cancelled", unless it has answered already."""
        self._cancelled = True
        self._process.terminate()

    def wait(self, seconds: float) -> Answer | None:
        """Return the answer if it comes within ``seconds``, else None."""
        self._waiter.join(seconds)
        return self.answer

    def last_line(self) -> str:
        """Return the last line of progress that the command has printed so far."""
        lines = _text(self._err, 4096).splitlines() if self.answer is None else []
        return lines[-1][:200] if lines else ""

    def _wait(self, timeout_seconds: float) -> None:
        late = False
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            late = True
            self._process.terminate()
        try:
            code = self._process.wait(_TERM_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        answer = _read(_text(self._out), _text(self._err, 4096), code)
        if (late or self._cancelled) and not answer.ok:
            what = f"It took longer than {timeout_seconds:.0f} s." if late else "Cancelled."
            message = f"{what} Finished parts are kept."
            answer = Answer({}, message, "Try again.", "timeout" if late else "cancelled")
        self._out.close()
        self._err.close()
        self.answer = answer


def _text(stream: IO[bytes], last: int | None = None) -> str:
    with contextlib.suppress(ValueError, OSError):
        size = os.fstat(stream.fileno()).st_size
        start = max(0, size - last) if last else 0
        return os.pread(stream.fileno(), size - start, start).decode("utf-8", "replace")
    return ""


def _read(out: str, err: str, code: int) -> Answer:
    try:
        value = json.loads(out)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        last = err.strip().splitlines()[-1:] or [f"exit code {code}"]
        return Answer(
            {}, f"The command ended without an answer ({last[0][:300]}).", "Try again.", "no-answer"
        )
    error = value.get("error")
    if not isinstance(error, dict):
        return Answer(value)
    problems = tuple(
        Problem(**{name: without_marks(value) for name, value in each.items()})
        for each in error.get("problems", ())
    )
    step = NextStep(error["next_step"]) if "next_step" in error else None
    remedy = what_to_do(str(error.get("remedy", "")), step, str(error.get("about", "")))
    told = [
        str(error.get("remedy", "")),
        *(words for each in error.get("problems", ()) for words in each.values()),
    ]
    named = map(unmarked, MARKED_SETTING.finditer(" ".join(told)))
    settings = {name: value for name, value in [*named][::-1] if value}  # of several values the first
    return Answer({}, str(error.get("message")), remedy, str(error.get("code", "")), problems, settings)


class Commands:
    """The commands of this studio with their answers; the oldest answers are dropped."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Command] = OrderedDict()
        self._guard = threading.Lock()

    def start(self, words: Sequence[str], version: str, timeout_seconds: float) -> Command:
        """Return the command; start it unless it is running or its answer is known."""
        key = _key(words, version)
        with self._guard:
            if key not in self._kept:
                self._kept[key] = Command(words, timeout_seconds)
                self._forget()
            self._kept.move_to_end(key)
            return self._kept[key]

    def forget(self, words: Sequence[str], version: str) -> None:
        """Drop the answer to a command, so that it can run again."""
        with self._guard:
            self._kept.pop(_key(words, version), None)

    def _forget(self) -> None:
        done = [key for key, kept in self._kept.items() if kept.answer is not None]
        for key in done[: max(0, len(self._kept) - KEPT)]:
            del self._kept[key]


def _key(words: Sequence[str], version: str) -> str:
    return hashlib.sha256("\0".join([*words, version]).encode()).hexdigest()


@st.cache_resource(show_spinner=False)
def commands() -> Commands:
    """Return the commands of this process."""
    return Commands()


def ask(
    label: str, words: Sequence[str], *, version: str = "", timeout_seconds: float = TIMEOUT_SECONDS
) -> Answer | None:
    """Return the answer of ``tunesmith WORDS --json``; until it comes, draw the progress and return None.

    A failed or cancelled command runs again when its words or ``version`` change, or on "Try again".
    """
    command = commands().start(words, version, timeout_seconds)
    if command.answer is None:
        _progress(command, label)
        return None
    return command.answer


@st.fragment(run_every=POLL_SECONDS)
def _progress(command: Command, label: str) -> None:
    if command.answer is not None:
        st.rerun()
    seconds = command.seconds
    left, right = st.columns([6, 1], vertical_alignment="center")
    left.progress(1 - 0.9 ** (1 + seconds), text=f"{label} … {seconds:.0f} s")
    if right.button("Cancel", key=f"cancel {id(command)}", width="stretch"):
        command.cancel()
        command.wait(_TERM_SECONDS)
        st.rerun()
    if line := command.last_line():
        st.caption(plain(line, 200))


def show_failure(answer: Answer, *, words: Sequence[str] = (), version: str = "") -> None:
    """Draw the error of an answer, with a button to try again if ``words`` are given."""
    listed = [f"{each.field}: {each.message} {each.remedy}" for each in answer.problems] or [
        f"{answer.message} {answer.remedy}".strip()
    ]
    st.error("\n\n".join(plain(each, 600) for each in listed), icon=":material/error:")
    if words and st.button("Try again", key=f"again {' '.join(words)}", icon=":material/refresh:"):
        commands().forget(words, version)
        st.rerun()
