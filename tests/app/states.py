"""Run folders in every state a run can be in, written by the code that writes them in life."""

from __future__ import annotations

import math
import signal
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.manager.queue_manager import QueueManager
from backend.manager.system_manager import SystemSample
from backend.run.config import config_yaml
from backend.run.environment import Environment
from backend.run.folder import RunDir
from backend.run.metrics import metrics_record
from backend.run.reports import EvalReport, Outcome, RunStatus, Sample, StepReport
from backend.run.settings import parse_config
from backend.utils.jsonl_utils import JsonlWriter
from backend.utils.record_utils import record_to_json
from tests.runs import do_harm

STEPS = 40
TOTAL = 100


class Runs:
    """Makes runs under ``root``; a live one is held by a real lock until this is closed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held = ExitStack()

    def close(self) -> None:
        """Let go of every lock."""
        self._held.close()

    def created(self, name: str = "food", *, model: str = "smollm2-135m", **settings: object) -> RunDir:
        """Configured, never started; ``settings`` are those of the section training."""
        raw = {
            "name": name,
            "model": {"model_name_or_path": model},
            "data": {"train": "/data/foods.jsonl"},
            "training": settings,
        }
        return RunDir.create(self.root, name or "run", config_yaml(parse_config(raw)))

    def queued(self, name: str = "waiting", *, hold: bool = False, priority: int = 0) -> RunDir:
        """In the queue."""
        run = self.created(name)
        QueueManager(self.root).enqueue(run, hold=hold, priority=priority)
        return run

    def starting(self, name: str = "starting") -> RunDir:
        """Held by its trainer, which has not spoken yet."""
        run = self.created(name)
        self._held.enter_context(run.lock())
        run.begin_attempt(("python", "-m", "backend.trainer_main", str(run.path)))
        return run

    def running(self, name: str = "running", *, steps: int = STEPS, total: int = TOTAL) -> RunDir:
        """Training, with curves, samples, a log and samples of the machine."""
        run = self.starting(name)
        run.write_environment(Environment())
        train(run, steps=steps, total=total)
        return run

    def stopping(self) -> RunDir:
        """Asked to stop."""
        run = self.running("stopping")
        run.request_stop()
        return run

    def stopped(self, *, reason: str = "stop-requested") -> RunDir:
        """Stopped on request, with a checkpoint."""
        run = self.ended("stopped", steps=STEPS)
        run.write_outcome(
            Outcome(RunStatus.STOPPED, reason, f"Stopped after step {STEPS}; saved.", step=STEPS)
        )
        return run

    def interrupted(self) -> RunDir:
        """Killed from outside."""
        run = self.created("interrupted")
        with run.lock():
            attempt = run.begin_attempt(("python",))
            run.write_environment(Environment())
            train(run)
            run.end_attempt(attempt, "killed", signal_number=signal.SIGKILL)
        return run

    def failed(self) -> RunDir:
        """Ended by a loss that was no number."""
        run = self.ended("failed", steps=12)
        with run.flight_writer() as flight:
            for step in range(1, 13):
                loss = 1.0 if step < 12 else math.nan
                flight.append(
                    {
                        "step": step,
                        "loss": loss,
                        "grad_norm": 1.0,
                        "learning_rate": 1e-3,
                        "rows": ["foods.jsonl:7"],
                    }
                )
        outcome = Outcome(RunStatus.FAILED, "non-finite-loss", "The loss became nan.", "Lower it.", step=12)
        run.write_outcome(outcome)
        return run

    def damaged(self) -> RunDir:
        """Finished once; since then its outcome has been cut short."""
        run = self.finished("damaged")
        run.outcome_file.write_text('{"status": "fini', encoding="utf-8")
        return run

    def finished(self, name: str = "finished", *, steps: int = TOTAL, **settings: object) -> RunDir:
        """Trained to its end."""
        run = self.ended(name, steps=steps, total=steps, **settings)
        run.adapter.mkdir()
        (run.adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
        outcome = Outcome(
            RunStatus.FINISHED, "completed", f"Trained {steps} steps.", step=steps, result="adapter"
        )
        run.write_outcome(outcome)
        return run

    def preferring(self, name: str = "preferring", *, steps: int = STEPS) -> RunDir:
        """Learning from pairs of answers (DPO), with an evaluation before training and others on the way."""
        raw = {
            "name": name,
            "model": {"model_name_or_path": "smollm2-135m"},
            "data": {"train": "/data/pairs.jsonl"},
            "objective": {"method": "dpo"},
        }
        run = RunDir.create(self.root, name, config_yaml(parse_config(raw)))
        with run.metrics_writer() as metrics:
            for step in range(steps + 1):
                line = replace(step_report(max(1, step), TOTAL), step=step, **preferred(step))
                held_out = replace(eval_report(max(1, step), TOTAL), step=step, **preferred(step))
                reports = [line] * (step > 0) + [held_out] * (step % 10 == 0)
                for report in reports:
                    metrics.append(metrics_record(report))
        return run

    def harmed(self) -> RunDir:
        """Trained to its end, where it is worse than before; there is a good checkpoint on the way."""
        run = self.created("harmed")
        run.adapter.mkdir()
        with run.lock():
            do_harm(run)
        return run

    def ended(self, name: str, *, steps: int, total: int = TOTAL, **settings: object) -> RunDir:
        """Worked on and left in order; what it has to say about that is still to be written."""
        run = self.created(name, **settings)
        with run.lock():
            attempt = run.begin_attempt(("python",))
            run.write_environment(Environment())
            train(run, steps=steps, total=total)
            run.end_attempt(attempt, "exited", exit_code=0)
        return run

    def in_every_state(self) -> dict[str, RunDir]:
        """One run of each kind, by the name of its state."""
        names = ("created", "queued", "starting", "running", "stopping")
        names += ("stopped", "interrupted", "failed", "damaged", "finished")
        return {name: getattr(self, name)() for name in names}


def train(run: RunDir, *, steps: int = STEPS, total: int = TOTAL) -> None:
    """Everything that a trainer writes while it works."""
    with run.metrics_writer() as metrics:
        for step in range(1, steps + 1):
            metrics.append(metrics_record(step_report(step, total)))
            if step % 20 == 0:
                metrics.append(metrics_record(eval_report(step, total)))
    with run.samples_writer() as samples:
        for step in range(20, steps + 1, 20):
            for sample in eval_report(step, total).samples:
                samples.append({"step": step, **record_to_json(sample)})
    with JsonlWriter(run.system_file) as system:
        for second in range(20):
            system.append(machine(second).to_json())
    run.train_log.write_text("".join(f"step {step}\n" for step in range(1, steps + 1)), encoding="utf-8")
    checkpoint = run.checkpoint(steps)
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "adapter_model.safetensors").write_bytes(b"0" * 1000)


def step_report(step: int, total: int) -> StepReport:
    """A step of a run that learns."""
    return StepReport(
        step=step,
        total_steps=total,
        epoch=2 * step / total,
        loss=0.4 + 2.2 * math.exp(-4 * step / total) + 0.12 * math.sin(step * 1.7),
        grad_norm=1.5 + math.sin(step),
        learning_rate=2e-4 * (1 - step / total),
        tokens=2000 + 40 * (step % 7),
        trained_tokens=300,
        seconds=0.5,
        tokens_seen=2000 * step,
    )


def preferred(step: int) -> dict[str, Any]:
    """The loss and the measurements of a step that learns preferences; undecided before training."""
    learned = 1 - math.exp(-step / 20)
    chosen, rejected = -0.6 * learned, -3.0 * learned
    measured = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": 0.9 * learned,
    }
    return {"loss": math.log(2) * (1 - 0.8 * learned), "measured": measured}


def eval_report(step: int, total: int) -> EvalReport:
    """An evaluation of a run that learns."""
    sample = Sample("eval.jsonl:1", "Which section? pork", "Meat", "Meat" if step > total / 2 else "Fruit")
    loss = 0.5 + 2.1 * math.exp(-4 * step / total)
    return EvalReport(step, 2 * step / total, loss, 500, 16, 0.3, 0.75, 16, samples=(sample,))


def machine(second: int) -> SystemSample:
    """A machine at work."""
    return SystemSample(
        f"2026-01-01T12:00:{second:02d}+00:00",
        60.0 + second % 9,
        6 * 2**30 + second * 2**24,
        16 * 2**30,
        80 * 2**30,
    )
