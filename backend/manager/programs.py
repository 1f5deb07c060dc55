"""The commands that start processes of ours: the one place that spells the modules they run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

TRAINER = "backend.trainer_main"
SUPERVISOR = "backend.manager.supervisor"
QUEUE_WATCH = "backend.manager.queue_watch"
SERVER = "backend.server.process"
COMMANDS = "backend.commands.cli"

_CODE = Path(__file__).resolve().parents[2]


def python_command(module: str, *words: str, unbuffered: bool = False) -> tuple[str, ...]:
    """Return the command that runs a module of ours, with nothing of the working folder on its path."""
    return (sys.executable, "-P", *(("-u",) if unbuffered else ()), "-m", module, *words)


def child_environ() -> dict[str, str]:
    """Ours, with our own code first on the path, wherever the caller stands."""
    paths = [str(_CODE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
