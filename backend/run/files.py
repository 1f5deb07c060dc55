"""What lies where in a run folder: the only place that knows a file name inside one.

A run is a folder; see docs/run-folder.md for who writes what.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

from backend.run.checkpoints import checkpoint_folders, step_name, step_of
from backend.run.methods import TUNINGS


class Part:
    """A file or folder of a run. Asked of a run it is a path, which is then kept; of the class, the part itself."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __set_name__(self, _owner: type[RunFiles], attribute: str) -> None:
        self._attribute = attribute

    @overload
    def __get__(self, run: None, _owner: type[RunFiles]) -> Part: ...

    @overload
    def __get__(self, run: RunFiles, _owner: type[RunFiles]) -> Path: ...

    def __get__(self, run: RunFiles | None, _owner: type[RunFiles]) -> Part | Path:
        if run is None:
            return self
        path = run.path / self.name
        run.__dict__[self._attribute] = path
        return path


@dataclass(frozen=True)
class RunFiles:
    """The files of the run in ``path``, whether they are there or not."""

    path: Path

    config = Part("config.yaml")  # the whole resolved configuration; the door writes it once
    environment = Part("environment.json")  # versions, device, fingerprints; the trainer, each attempt
    lock_file = Part("run.lock")  # locked while a process works on the run: this is liveness
    attempts = Part("attempts")  # a file for each attempt, from the supervisor (or a foreground trainer)
    ticket_file = Part("queued")  # a place in the queue
    reserve = Part("reserve")  # room set aside while an attempt lives, so that a full disk can be told
    stop_file = Part("stop")  # a request to stop; anyone may write it, an empty one counts
    train_log = Part("train.log")  # what the trainer printed
    supervisor_log = Part("supervisor.log")  # what the supervisor printed; empty unless it went wrong
    rejected_file = Part("rejected.jsonl")  # rows that could not be read: place, reason, beginning
    metrics_file = Part("metrics.jsonl")  # a line a report: the truth for curves
    samples_file = Part("samples.jsonl")  # generations on the fixed panel at each evaluation
    reward_audit_file = Part("reward-audit.json")  # what answers earned before training, for grpo
    completions_file = Part("completions.jsonl")  # sampled answers of the last steps, with their rewards
    flight_file = Part("flight.jsonl")  # the last steps in detail: rows, gradient norms, memory
    system_file = Part("system.jsonl")  # what the machine did while the run lived
    labels_file = Part("labels.json")  # what a person says about the run: name, tags, note
    tensorboard = Part("tensorboard")  # the metrics once more, as event files
    checkpoints = Part("checkpoints")  # trainer states, step-000200 and so on
    reference_file = Part(
        "reference.safetensors"
    )  # log-probabilities before training, for a preference method
    adapter = Part(TUNINGS["lora"].result)  # the result of an adapter run, Hugging Face layout
    model = Part(TUNINGS["full"].result)  # the result of a full run, Hugging Face layout
    data_check_file = Part("data-check.json")  # what the data check found before the run began
    scores_file = Part("scores.json")  # what `tunesmith evaluate` found on the held-out rows
    evaluation_file = Part("evaluation.json")  # what its checks said of base and result, with verdicts
    outcome_file = Part("outcome.json")  # how the latest attempt ended, in the trainer's words

    @property
    def id(self) -> str:
        """The folder's name, which is the run's name everywhere."""
        return self.path.name

    @property
    def mark(self) -> str:
        """Device and inode of the folder: the same after a move, others for a copy; empty when it is gone."""
        try:
            status = self.path.stat()
        except OSError:
            return ""
        return f"{status.st_dev}:{status.st_ino}"

    def at(self, part: Part) -> str:
        """Return the path of a part as text; a listing of ten thousand runs has no time for ``Path``."""
        return f"{self._folder}/{part.name}"

    @cached_property
    def _folder(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        """Return whether the folder looks like a run, intact or damaged; False if it may not be read."""
        signs = (RunFiles.config, RunFiles.attempts, RunFiles.metrics_file, RunFiles.checkpoints)
        return any(os.path.exists(self.at(sign)) for sign in (*signs, RunFiles.outcome_file))  # noqa: PTH110

    def result_folder(self) -> Path | None:
        """The trained ``adapter/`` or ``model/``; None before the run has finished one."""
        return next((path for path in (self.adapter, self.model) if path.is_dir()), None)

    def checkpoint(self, step: int) -> Path:
        """Return the folder of the checkpoint of a step."""
        return self.checkpoints / step_name(step)

    def checkpoint_steps(self) -> list[int]:
        """The steps of the published checkpoints, lowest first; nothing is verified here."""
        return [
            step for path in checkpoint_folders(self.checkpoints) if (step := step_of(path.name)) is not None
        ]

    def newest_checkpoint_step(self) -> int:
        """The step of the newest published checkpoint, 0 before the first; nothing is verified here."""
        return _highest(self.at(RunFiles.checkpoints), step_of)

    def attempt_file(self, number: int) -> Path:
        """Return the file of the attempt of this number, counted from 1."""
        return self.attempts / f"{number}.json"

    def latest_attempt_number(self, known: int = 0) -> int:
        """The number of the latest attempt, 0 before the first; quicker where that of one is ``known``."""
        folder = self.at(RunFiles.attempts)
        last = known and os.access(f"{folder}/{known}.json", os.F_OK)
        if last and not os.access(f"{folder}/{known + 1}.json", os.F_OK):  # they have no gaps
            return known
        return _highest(folder, _attempt_of)


_ATTEMPT = re.compile(r"([1-9]\d{0,8})\.json")


def _attempt_of(name: str) -> int | None:
    match = _ATTEMPT.fullmatch(name)
    return int(match[1]) if match else None


def _highest(folder: str, number_of: Callable[[str], int | None]) -> int:
    """Return the highest number that a name in a folder stands for, 0 when there is none."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  a listing asks often
    except OSError:
        return 0
    return max((number_of(name) or 0 for name in names), default=0)
