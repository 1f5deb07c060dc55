"""Pages over real files and real commands; the commands run in this process, which has loaded torch already.

That a page runs them in a child is held by tests/app/test_commands.py, test_light.py and the journeys in a browser.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

import pytest

from app import commands
from backend.commands import cli


class CommandHere(commands.Command):
    """The same words to the same command line, answered before the page goes on."""

    def __init__(self, words: Sequence[str], timeout_seconds: float) -> None:
        self.words = tuple(words)
        self.started = time.monotonic()
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = cli.main([*words, "--json"])
        self.answer = commands._read(out.getvalue(), err.getvalue(), code)


@pytest.fixture(autouse=True)
def _commands_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "Command", CommandHere)
