"""Reports become one line in metrics.jsonl and the same numbers in TensorBoard, under the usual tag names. F1."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from backend.run.reports import EvalReport, StepReport, metrics_record, metrics_scalars
from backend.utils.jsonl_utils import JsonlWriter

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("tunesmith")


class MetricsWriter:
    """Writes every report to both places. ``tensorboard`` None writes metrics.jsonl alone. Close it."""

    def __init__(self, lines: JsonlWriter, tensorboard: Path | None, *, after_step: int = 0) -> None:
        self._lines = lines
        self._events: SummaryWriter | None = None
        if tensorboard:
            with self._only_a_copy():
                self._events = _event_writer(tensorboard, after_step)

    def write(self, report: StepReport | EvalReport) -> None:
        """One line in metrics.jsonl and one TensorBoard point a tag. Raises OSError when the line does not fit."""
        self._lines.append(metrics_record(report))
        if self._events is not None:
            with self._only_a_copy():
                for tag, value in metrics_scalars(report).items():
                    self._events.add_scalar(tag, value, report.step)
                self._events.flush()

    def sync(self) -> None:
        """Put what was written to metrics.jsonl on the disk."""
        self._lines.sync()

    def close(self) -> None:
        """Flush and close both."""
        self._lines.close()
        if self._events is not None:
            with self._only_a_copy():
                self._events.close()

    @contextmanager
    def _only_a_copy(self) -> Iterator[None]:
        """TensorBoard's files repeat what metrics.jsonl holds: when they cannot be written, training goes on."""
        try:
            yield
        except OSError as error:
            self._events = None
            log.warning("TensorBoard files cannot be written (%s); metrics.jsonl goes on.", error)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _event_writer(folder: Path, after_step: int) -> SummaryWriter:
    """An event file that tells TensorBoard to forget what an earlier attempt wrote past ``after_step``."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - a second of imports, only when wanted

    purge = after_step + 1 if after_step else None
    return SummaryWriter(str(folder), purge_step=purge, flush_secs=5)
