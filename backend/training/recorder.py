"""Write a run's metrics, samples, flight record and checkpoints into its folder while it trains."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from backend.core.device import memory_bytes
from backend.errors import TrainingError
from backend.run.config import RunConfig
from backend.run.environment import Facts
from backend.run.folder import RunDir
from backend.run.metrics import is_better, metrics_record, metrics_scalars
from backend.run.reports import EvalReport, StepReport
from backend.training.checkpoint import prune, save_checkpoint
from backend.training.loop import TrainState
from backend.utils.jsonl_utils import JsonlWriter

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("tunesmith")


class Recorder:
    """Writes the metrics, samples, flight record and checkpoints of one attempt, as a context manager.

    ``facts`` are stored in every checkpoint. ``notes`` are those of the checkpoint that the attempt resumes from, as
    ``checkpoint`` below wrote them; empty for a run from the start.
    """

    def __init__(
        self,
        run_dir: RunDir,
        config: RunConfig,
        state: TrainState,
        tokenizer: PreTrainedTokenizerBase,
        facts: Facts,
        notes: Mapping[str, Any],
    ) -> None:
        self._run_dir, self._config, self._state, self._facts = run_dir, config, state, facts
        # Save the tokenizer only if its chat template was overridden; otherwise it equals the base's.
        self._tokenizer = tokenizer if config.model.chat_template else None
        self._best_loss: float | None = notes.get("best_loss")
        self._best_step: int | None = notes.get("best_step")
        self._evaluations_since_best = int(notes.get("waited", 0))
        tensorboard = run_dir.tensorboard if config.logging.tensorboard else None
        self._metrics = MetricsWriter(run_dir.metrics_writer(), tensorboard, after_step=state.step)
        self._samples = run_dir.samples_writer()
        self._flight = run_dir.flight_writer()
        samples = config.objective.facts.samples
        self._completions = run_dir.completions_writer() if samples else None

    def step(self, report: StepReport) -> None:
        """Record one training step: always in the flight record, every ``logging_steps`` in the metrics."""
        if report.step % self._config.logging.logging_steps == 0 or report.step in {1, report.total_steps}:
            self._metrics.write(report)
        if self._completions is not None:
            for sample in report.samples:
                self._completions.append({"step": report.step, **asdict(sample)})
        detail = {name: getattr(report, name) for name in ("step", "loss", "grad_norm", "learning_rate")}
        self._flight.append({**detail, "rows": list(report.rows), "memory_bytes": memory_bytes()})

    def evaluation(self, report: EvalReport) -> bool:
        """Record one evaluation; return True if it is the best so far (step 0, the untrained model, never is)."""
        self._metrics.write(report)
        for sample in report.samples:
            self._samples.append({"step": report.step, **asdict(sample), "exact_match": sample.exact_match})
        better = report.loss is not None and is_better(report.step, report.loss, self._best_loss)
        if better:
            self._best_loss, self._best_step = report.loss, report.step
            self._evaluations_since_best = 0
        elif report.step > 0:  # step 0 is the untrained model, before any attempt to improve
            self._evaluations_since_best += 1
        return better

    @property
    def should_stop_early(self) -> bool:
        """True if the last ``early_stopping_patience`` evaluations all failed to beat the best before them."""
        patience = self._config.evaluation.early_stopping_patience
        return patience is not None and self._evaluations_since_best >= patience

    @property
    def result_step(self) -> int | None:
        """The step with the best evaluation, if the run keeps that model as its result; None for the last model."""
        evaluation = self._config.evaluation
        # Early stopping implies it: a run that stops because the loss rises has a last model worse than its best.
        keeps_best = evaluation.load_best_model_at_end or evaluation.early_stopping_patience is not None
        return self._best_step if keeps_best else None

    def checkpoint(self, *, done: bool = False) -> None:
        """Save a checkpoint, then delete those beyond ``save_total_limit``; ``done``: training ends with it."""
        notes = {
            "facts": asdict(self._facts),
            "best_loss": self._best_loss,
            "best_step": self._best_step,
            "waited": self._evaluations_since_best,
            "done": done,
        }
        self._metrics.sync()  # a power cut must not leave the series shorter than the checkpoint
        folder, limit = self._run_dir.checkpoints, self._config.training.save_total_limit
        save_checkpoint(folder, self._state, notes, self._tokenizer)
        prune(folder, keep_last=limit, best_step=self._best_step)

    def close(self) -> None:
        """Close every file."""
        for writer in (self._metrics, self._samples, self._flight):
            writer.close()
        if self._completions is not None:
            self._completions.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(value, TrainingError) and value.step_record:  # a step that failed never became a report
            self._flight.append({**value.step_record, "memory_bytes": memory_bytes()})
        self.close()


class MetricsWriter:
    """Writes each report as a line of metrics.jsonl, and its numbers to TensorBoard under the same tags.

    ``tensorboard`` is the folder for event files; None writes none. ``after_step`` is the step that training goes on
    from. It closes ``metrics_file`` with itself.
    """

    def __init__(self, metrics_file: JsonlWriter, tensorboard: Path | None, *, after_step: int = 0) -> None:
        self._metrics_file = metrics_file
        self._events: SummaryWriter | None = None
        if tensorboard:
            with self._no_events_after_error():
                self._events = _event_writer(tensorboard, after_step)

    def write(self, report: StepReport | EvalReport) -> None:
        """Write one line, and one TensorBoard point per tag. Raises OSError if the line cannot be written."""
        self._metrics_file.append(metrics_record(report))
        if self._events is not None:
            with self._no_events_after_error():
                for tag, value in metrics_scalars(report).items():
                    self._events.add_scalar(tag, value, report.step)
                self._events.flush()

    def sync(self) -> None:
        """Fsync metrics.jsonl."""
        self._metrics_file.sync()

    def close(self) -> None:
        """Flush and close metrics.jsonl and the event file."""
        self._metrics_file.close()
        if self._events is not None:
            with self._no_events_after_error():
                self._events.close()

    @contextmanager
    def _no_events_after_error(self) -> Iterator[None]:
        """Stop writing TensorBoard files after an OSError: they only repeat metrics.jsonl, so training goes on."""
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
    """Open an event file; TensorBoard drops what an earlier attempt wrote after ``after_step``, with 0 everything."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - a second of imports, only when wanted

    # with 1, the evaluation before the first step would stay, and a run begun anew have two of them
    return SummaryWriter(str(folder), purge_step=after_step + 1 if after_step else 0)
