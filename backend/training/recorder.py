"""The recorder: what happens in a run goes into its folder as it happens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any

from transformers import PreTrainedTokenizerBase

from backend.core.device import memory_bytes
from backend.errors import TrainingError
from backend.run.config import RunConfig
from backend.run.environment import Facts
from backend.run.folder import RunDir
from backend.run.reports import EvalReport, StepReport
from backend.training.checkpoint import prune, save_checkpoint
from backend.training.loop import TrainState
from backend.training.metrics import MetricsWriter


class Recorder:
    """Metrics, samples, the flight record and checkpoints of one attempt. Close it when the attempt ends.

    ``facts`` go into every checkpoint; ``notes`` are those of the checkpoint the attempt resumed from.
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
        self._run, self._config, self._state, self._facts = run_dir, config, state, facts
        # without a template of its own the run's tokenizer is that of the base model
        self._tokenizer = tokenizer if config.model.chat_template else None
        self._best_loss: float | None = notes.get("best_loss")
        self._best_step: int | None = notes.get("best_step")
        self._waited = int(notes.get("waited", 0))
        tensorboard = run_dir.tensorboard if config.logging.tensorboard else None
        self._metrics = MetricsWriter(run_dir.metrics_writer(), tensorboard, after_step=state.step)
        self._samples = run_dir.samples_writer()
        self._flight = run_dir.flight_writer()

    def step(self, report: StepReport) -> None:
        """Note one training step; the flight record keeps every step, the metrics every ``logging_steps``."""
        if report.step % self._config.logging.logging_steps == 0 or report.step in {1, report.total_steps}:
            self._metrics.write(report)
        detail = {name: getattr(report, name) for name in ("step", "loss", "grad_norm", "learning_rate")}
        self._flight.append({**detail, "rows": list(report.rows), "memory_bytes": memory_bytes()})

    def evaluation(self, report: EvalReport) -> bool:
        """Note one evaluation; whether it is the best of the run so far (the untrained model does not count)."""
        self._metrics.write(report)
        for sample in report.samples:
            self._samples.append({"step": report.step, **asdict(sample), "exact_match": sample.exact_match})
        counts = report.step > 0 and math.isfinite(report.loss)
        better = counts and (self._best_loss is None or report.loss < self._best_loss)
        if better:
            self._best_loss, self._best_step = report.loss, report.step
        self._waited = 0 if better or report.step == 0 else self._waited + 1
        return better

    @property
    def has_waited_enough(self) -> bool:
        """Whether ``early_stopping_patience`` evaluations in a row were no better than the best before them."""
        patience = self._config.evaluation.early_stopping_patience
        return patience is not None and self._waited >= patience

    @property
    def result_step(self) -> int | None:
        """The step whose model is the result, where that is the best one so far; None where it is the last."""
        evaluation = self._config.evaluation
        wanted = evaluation.load_best_model_at_end or evaluation.early_stopping_patience is not None
        return self._best_step if wanted else None

    def checkpoint(self, *, done: bool = False) -> None:
        """Save a checkpoint of now, then drop those that are no longer wanted; ``done`` marks the last one."""
        notes = {
            "facts": asdict(self._facts),
            "best_loss": self._best_loss,
            "best_step": self._best_step,
            "waited": self._waited,
            "done": done,
        }
        self._metrics.sync()  # a power cut must not leave the series shorter than the checkpoint
        save_checkpoint(self._run.checkpoints, self._state, notes, self._tokenizer)
        prune(
            self._run.checkpoints, keep_last=self._config.training.save_total_limit, best_step=self._best_step
        )

    def close(self) -> None:
        """Close every file."""
        for writer in (self._metrics, self._samples, self._flight):
            writer.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(value, TrainingError) and value.step_record:
            self._flight.append({**value.step_record, "memory_bytes": memory_bytes()})
        self.close()
