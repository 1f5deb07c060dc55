"""Bars with time left over a run, on standard error, for whoever watches it in a terminal."""

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

from backend.run.reports import EvalReport, Progress, StepReport


class Screen:
    """A stream to look at while something else is at work: what it does not take is lost, and nothing else.

    Its reader may leave, its terminal be closed and its disk be full.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = stream.encoding

    def write(self, text: str) -> int:
        """Write what the stream takes; return the length of ``text``."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Send on what was written, if the stream takes it."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Return whether a person looks at it."""
        return self._stream.isatty()


class ProgressView:
    """Shows what the trainer reports. In a pipe it prints a line an evaluation instead of drawing.

    A run never ends because nobody can be shown how it goes: see ``Screen``.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(
            file=cast("IO[str]", Screen(sys.stderr)), quiet=quiet, highlight=False
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
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bars.add_task("starting", total=None, figures="")

    def __call__(self, progress: Progress) -> None:
        """Show one phase or report."""
        report = progress.report
        self._bars.update(self._task, description=progress.phase)
        if isinstance(report, StepReport):
            figures = f"loss {report.loss:.3f} · {report.tokens_per_second:,.0f} tokens/s"
            self._bars.update(self._task, completed=report.step, total=report.total_steps, figures=figures)
        elif isinstance(report, EvalReport):
            self._console.print(evaluation_line(report), markup=False)
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
    """One evaluation in one line."""
    score = (
        ""
        if report.exact_match is None
        else f" · {report.exact_match:.1%} of {report.scored_rows} answers exact"
    )
    return f"step {report.step}: held-out loss {report.loss:.4f} on {report.rows} rows{score}"
