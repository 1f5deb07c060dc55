"""Bars for whoever watches: backend/commands/progress.py."""

from __future__ import annotations

import errno
import io
from dataclasses import replace
from unittest.mock import create_autospec

import pytest
from rich.console import Console

from backend.commands.progress import ProgressView, evaluation_line
from backend.run.reports import EvalReport, Progress, StepReport

STEP = StepReport(
    step=3,
    total_steps=10,
    epoch=0.3,
    loss=1.23456,
    grad_norm=1.0,
    learning_rate=0.1,
    tokens=6000,
    trained_tokens=600,
    seconds=2.0,
    tokens_seen=6000,
)
EVALUATION = EvalReport(step=3, epoch=0.3, loss=0.98765, trained_tokens=80, rows=12, seconds=0.1)
SCORED = replace(EVALUATION, exact_match=0.875, scored_rows=8)


def shown(*progress: Progress, terminal: bool, quiet: bool = False) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=160, quiet=quiet, highlight=False)
    with ProgressView(quiet=quiet, console=console) as view:
        _ = [view(each) for each in progress]
    return screen.getvalue()


class Full(io.StringIO):
    """A stream whose disk is full, or whose reader has left."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise self._error

    flush = create_autospec(io.StringIO.flush, side_effect=OSError(errno.EIO, "gone"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO])
def test_what_a_screen_does_not_take_is_lost_and_nothing_else(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Full(OSError(number, "no"))
    monkeypatch.setattr("sys.stderr", screen)
    with ProgressView() as view:
        view(Progress("training", EVALUATION))
        view(Progress("training", STEP, note="a note"))
    assert screen.getvalue() == ""


def test_a_pipe_gets_a_line_an_evaluation() -> None:
    told = [Progress("reading the data"), Progress("training", STEP), Progress("training", EVALUATION)]
    assert shown(*told, terminal=False).strip() == evaluation_line(EVALUATION)


def test_a_terminal_gets_figures_and_time_left() -> None:
    screen = shown(Progress("training", STEP), terminal=True)
    assert "training" in screen
    assert "3/10" in screen
    assert "loss 1.235 · 3,000 tokens/s" in screen
    assert "left" in screen


def test_a_terminal_shows_the_phase() -> None:
    assert "loading the model" in shown(Progress("loading the model"), terminal=True)


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_is_quiet(terminal: bool) -> None:
    told = [Progress("training", STEP), Progress("training", SCORED)]
    assert shown(*told, terminal=terminal, quiet=True) == ""


def test_it_writes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressView() as view:
        view(Progress("training", EVALUATION))
    printed, screen = capsys.readouterr()
    assert printed == ""
    assert evaluation_line(EVALUATION) in screen


def test_an_evaluation_in_one_line() -> None:
    assert evaluation_line(EVALUATION) == "step 3: held-out loss 0.9877 on 12 rows"
    assert evaluation_line(SCORED) == "step 3: held-out loss 0.9877 on 12 rows · 87.5% of 8 answers exact"
