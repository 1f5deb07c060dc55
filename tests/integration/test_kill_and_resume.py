"""A run that is killed anywhere goes on to the very bits of the run that was not."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from backend.reports import RunStatus
from backend.run_dir import RunDir
from tests.runs import SHORT, lines, make_run, result_bytes, series
from tests.trainers import Trainers

STEPS = 10
TEN = SHORT | {"training.max_steps": STEPS, "training.save_steps": 3, "evaluation.eval_steps": 4}
METHODS: dict[str, dict[str, Any]] = {
    "lora": TEN,
    "lora with dropout": TEN | {"tuning.lora_dropout": 0.3},
    "full": TEN | {"tuning.method": "full", "training.learning_rate": 0.003},
    "accumulation": TEN | {"training.gradient_accumulation_steps": 3, "training.micro_batch_tokens": 32},
    "augmentation": TEN
    | {
        "training.neftune_noise_alpha": 5.0,
        "augmentation.prompt_templates": ["Say: {prompt}"],
        "augmentation.noise": 0.1,
        "augmentation.typos": 0.03,
        "augmentation.oversample": 2.0,
    },
}
MOMENTS = [(2, "before"), (4, "after"), (7, "before"), (10, "before")]
"""Killed before or after a step is written down: without any checkpoint yet, right after one, between, at the end."""
MOMENTS_OF = {
    "lora": MOMENTS,
    "lora with dropout": MOMENTS[2:3],
    "full": MOMENTS[2:],
    "accumulation": MOMENTS[:2],
    "augmentation": MOMENTS[1:3],
}
KILL = """
import os, signal
real = trainer.train_steps
def killing(*given, **options):
    for report in real(*given, **options):
        if (report.step, "before") == ({step}, "{when}"):
            os.kill(os.getpid(), signal.SIGKILL)
        yield report
        if (report.step, "after") == ({step}, "{when}"):
            os.kill(os.getpid(), signal.SIGKILL)
trainer.train_steps = killing
"""


@pytest.fixture(scope="module")
def undisturbed(
    trainers: Trainers, tmp_path_factory: pytest.TempPathFactory, learner: Path, rows_file: Path
) -> dict[str, RunDir]:
    """A run of each method, carried out in one go."""
    root = tmp_path_factory.mktemp("undisturbed")
    runs = {method: make_run(root, learner, rows_file, changes) for method, changes in METHODS.items()}
    assert [trainers.start(run).wait().code for run in runs.values()] == [0] * len(METHODS)
    return runs


def same(run: RunDir, whole: RunDir) -> None:
    """Every weight, moment, curve and sample is the same."""
    assert run.status() is RunStatus.FINISHED
    assert result_bytes(run) == result_bytes(whole)
    assert series(run) == series(whole)
    assert lines(run.samples_file) == lines(whole.samples_file)
    assert [path.name for path in run.path.rglob("*.tmp")] == []


@pytest.mark.parametrize("method", METHODS)
def test_killed_at_every_kind_of_moment_it_ends_in_the_same_bits(
    trainers: Trainers,
    undisturbed: dict[str, RunDir],
    tmp_path: Path,
    learner: Path,
    rows_file: Path,
    method: str,
) -> None:
    run = make_run(tmp_path / "runs", learner, rows_file, METHODS[method])
    for step, when in MOMENTS_OF[method]:
        end = trainers.start(run, code=KILL.format(step=step, when=when)).wait()
        assert end.code == -signal.SIGKILL
        assert run.status() is RunStatus.INTERRUPTED
        assert run.result_folder() is None
    assert trainers.start(run).wait().code == 0
    assert run.latest_attempt_number() == len(MOMENTS_OF[method]) + 1
    same(run, undisturbed[method])


def test_killed_from_outside_at_whatever_moment_it_ends_in_the_same_bits(
    trainers: Trainers, undisturbed: dict[str, RunDir], tmp_path: Path, learner: Path, rows_file: Path
) -> None:
    run = make_run(tmp_path / "runs", learner, rows_file, METHODS["lora"])
    for written in (1, 6):
        trainers.start(run).kill_after(written)
    assert trainers.start(run).wait().code == 0
    same(run, undisturbed["lora"])


def test_the_comparison_can_tell_runs_apart(undisturbed: dict[str, RunDir]) -> None:
    assert len({str(series(run)) for run in undisturbed.values()}) == len(METHODS)
    assert len({str(result_bytes(run)) for run in undisturbed.values()}) == len(METHODS)
