"""Runs with a stand-in trainer, and the proof after every test that none of their processes lives on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from backend.run.folder import RunDir
from tests.eventually import eventually

STAND_IN = Path(__file__).parent / "stand_in.py"

Command = Callable[..., tuple[str, ...]]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder for runs; whatever still works in it when the test is over is ended, and the test fails."""
    folder = tmp_path / "runs"
    folder.mkdir()
    yield folder
    try:
        eventually(lambda: not processes_of(folder), timeout_seconds=10)
    finally:
        for process in processes_of(folder):
            process.kill()


@pytest.fixture
def run(root: Path) -> RunDir:
    """A new run."""
    return RunDir.create(root, "tiny", "model:\n  model_name_or_path: tiny\ntuning:\n  method: lora\n")


def stand_in(run: RunDir, *behaviours: str) -> tuple[str, ...]:
    """The command of the stand-in trainer for a run."""
    return (sys.executable, str(STAND_IN), str(run.path), *behaviours)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every living process whose command line names something in ``folder``."""
    return [process for process in psutil.process_iter() if str(folder) in _command_line(process)]


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
