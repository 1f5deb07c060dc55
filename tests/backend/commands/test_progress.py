"""How a run is shown on standard error: backend/commands/progress.py."""

from __future__ import annotations

import errno
import io
from dataclasses import replace

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
        for each in progress:
            view(each)
    return screen.getvalue()


class BrokenStream(io.StringIO):
    """A stream that refuses everything with ``error``, and counts how often."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error
        self.refused = {"write": 0, "flush": 0}

    def write(self, text: str) -> int:
        self.refused["write"] += 1
        raise self._error

    def flush(self) -> None:
        self.refused["flush"] += 1
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EPIPE, "no reader"),
        OSError(errno.EIO, "no terminal"),
        ValueError("closed"),
    ],
    ids=str,
)
def test_a_run_goes_on_if_its_progress_cannot_be_shown(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = BrokenStream(error)
    monkeypatch.setattr("sys.stderr", stream)
    with ProgressView() as view:
        view(Progress("training", EVALUATION))
        view(Progress("training", STEP, note="a note"))
    assert min(stream.refused.values()) >= 2


@pytest.mark.parametrize("terminal", [True, False])
def test_a_note_is_printed_as_it_is(terminal: bool) -> None:
    assert "a note [bold]" in shown(Progress("training", note="a note [bold]"), terminal=terminal)


def test_a_pipe_gets_one_line_per_evaluation() -> None:
    reports = [Progress("reading the data"), Progress("training", STEP), Progress("training", EVALUATION)]
    assert shown(*reports, terminal=False).strip() == evaluation_line(EVALUATION)


def test_a_terminal_gets_figures_and_time_left() -> None:
    screen = shown(Progress("training", STEP), terminal=True)
    assert "training" in screen
    assert "3/10" in screen
    assert "loss 1.235 · 3,000 tokens/s" in screen
    assert "left" in screen


PREFERRED = {"rewards/accuracies": 0.83, "rewards/margins": 0.912}


def test_a_preference_run_says_how_often_the_better_answer_is_preferred() -> None:
    screen = shown(Progress("training", replace(STEP, measured=PREFERRED)), terminal=True)
    assert "loss 1.235 · prefers the better answer 83% · margin 0.91 · 3,000" in screen
    line = evaluation_line(replace(EVALUATION, measured=PREFERRED))
    assert line.endswith("on 12 rows · prefers the better answer 83% · margin 0.91")


def test_a_terminal_shows_the_phase() -> None:
    assert "loading the model" in shown(Progress("loading the model"), terminal=True)


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_is_quiet(terminal: bool) -> None:
    reports = [Progress("training", STEP), Progress("training", SCORED, note="a note")]
    assert shown(*reports, terminal=terminal, quiet=True) == ""


def test_it_writes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressView() as view:
        view(Progress("training", EVALUATION))
    printed, screen = capsys.readouterr()
    assert printed == ""
    assert evaluation_line(EVALUATION) in screen


def test_an_evaluation_in_one_line() -> None:
    assert evaluation_line(EVALUATION) == "step 3: held-out loss 0.9877 on 12 rows"
    texts = replace(EVALUATION, measured={"bits_per_byte": 1.23456, "forgetting_loss": 2.9})
    line = "step 3: held-out loss 0.9877 on 12 rows · 1.2346 bits per byte · general texts 2.9000"
    assert evaluation_line(texts) == line
    assert evaluation_line(SCORED) == "step 3: held-out loss 0.9877 on 12 rows · 87.5% of 8 answers exact"


def test_an_evaluation_of_rewards_names_them_before_the_loss() -> None:
    earned = replace(EVALUATION, measured={"reward": 0.5})
    assert evaluation_line(earned).startswith(
        "step 3: held-out reward 0.500 · held-out loss 0.9877 on 12 rows"
    )
    assert evaluation_line(replace(earned, loss=None)) == "step 3: held-out reward 0.500 on 12 rows"
