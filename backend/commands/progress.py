"""Show how a run goes on standard error: a progress bar in a terminal, plain lines in a pipe."""

from __future__ import annotations

import contextlib
import sys
from types import TracebackType
from typing import IO, TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)

from backend.run.metrics import preference_words, reward_words
from backend.run.reports import EvalReport, Progress, StepReport


class LossyStream:
    """A text stream that drops what cannot be written, so that a full disk or a closed terminal never ends a run.

    It has what rich uses of a stream, and no more.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = stream.encoding

    def write(self, text: str) -> int:
        """Write ``text``, or drop it if that fails; return its length either way."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream; ignore a failure."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Return True if the stream is a terminal."""
        return self._stream.isatty()


class ProgressView:
    """Shows what the trainer reports: a progress bar in a terminal; in a pipe, only evaluations and notes.

    ``console`` is standard error by default.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(
            file=cast("IO[str]", LossyStream(sys.stderr)), quiet=quiet, highlight=False
        )
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,  # or rich would leave a last bar in the pipe
        )
        self._task = self._bars.add_task("starting", total=None, figures="")

    def __call__(self, progress: Progress) -> None:
        """Show the phase, and the report and the note if there are any."""
        report = progress.report
        self._bars.update(self._task, description=progress.phase)
        if isinstance(report, StepReport):
            reward = reward_words(report.measured)
            # on-policy, the loss of rewarded answers is about 0 by construction, and says nothing
            parts = [reward or f"loss {report.loss:.3f}", preference_words(report.measured)]
            figures = " · ".join([*filter(None, parts), f"{report.tokens_per_second:,.0f} tokens/s"])
            self._bars.update(self._task, completed=report.step, total=report.total_steps, figures=figures)
        elif isinstance(report, EvalReport):
            self._console.print(evaluation_line(report), markup=False)  # a bracket is text, not a style
        if progress.note:
            self._console.print(progress.note, markup=False)

    def __enter__(self) -> ProgressView:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()


def evaluation_line(report: EvalReport) -> str:
    """Return an evaluation as one line of text, with what is measured beside the loss."""
    reward = reward_words(report.measured)
    loss = None if report.loss is None else f"held-out loss {report.loss:.4f}"
    told = " · ".join(filter(None, [reward and f"held-out {reward}", loss]))
    line = f"step {report.step}: {told} on {report.rows} rows"
    shapes = {"bits_per_byte": "{:.4f} bits per byte", "forgetting_loss": "general texts {:.4f}"}
    parts = [shape.format(report.measured[name]) for name, shape in shapes.items() if name in report.measured]
    parts += filter(None, [preference_words(report.measured)])
    if report.exact_match is not None:
        parts.append(f"{report.exact_match:.1%} of {report.scored_rows} answers exact")
    return " · ".join([line, *parts])
