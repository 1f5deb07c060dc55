"""Runs that learn from preferences: exact at the start, the same bits after any kill, and alike in two processes."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from backend.manager import process_manager
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from tests.runs import SHORT, lines, make_run, result_bytes, series, write_rows
from tests.trainers import Trainers

PATIENCE_SECONDS = 120.0
PAIRS = [
    {"prompt": f"food number {number}", "chosen": f"kind {number % 7}", "rejected": f"no idea, {number}"}
    for number in range(24)
]
SIX = SHORT | {"training.max_steps": 6, "training.save_steps": 2, "evaluation.eval_steps": 3}
METHODS: dict[str, dict[str, Any]] = {
    "dpo": {"objective.method": "dpo"},
    "dpo by hinge": {"objective.method": "dpo", "objective.loss_type": "hinge"},
    "dpo with sft": {"objective.method": "dpo", "objective.loss_type": "sigmoid, sft"},
    "kto": {"objective.method": "kto"},
    "kto without kl": {"objective.method": "kto", "objective.loss_type": "apo_zero_unpaired"},
    "orpo": {"objective.method": "orpo"},
    "cpo": {"objective.method": "cpo"},
    "simpo": {"objective.method": "simpo"},
    "full": {"objective.method": "dpo", "tuning.method": "full"},
}
AT_START = {"dpo": math.log(2), "dpo by hinge": 1.0, "kto": 0.5, "kto without kl": 0.5, "full": math.log(2)}
KILL_IN_REFERENCE = """
import os, signal
from backend.training import reference_pass
real = reference_pass.logprobs_of
def killing(*given, **options):
    found = real(*given, **options)
    killing.left -= 1
    if killing.left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
killing.left = {after}
reference_pass.logprobs_of = killing
"""
KILL_AFTER_STEP = """
import os, signal
real = trainer.train_steps
def killing(*given, **options):
    for report in real(*given, **options):
        yield report
        if report.step == {step}:
            os.kill(os.getpid(), signal.SIGKILL)
trainer.train_steps = killing
"""
DISTURB = """
from backend.training import reference_pass
real = reference_pass.logprobs_of
reference_pass.logprobs_of = lambda *given, **options: {k: v + 1e-9 for k, v in real(*given, **options).items()}
"""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", PAIRS)


@pytest.fixture(scope="module")
def undisturbed(
    trainers: Trainers, tmp_path_factory: pytest.TempPathFactory, learner: Path, pairs: Path
) -> dict[str, RunDir]:
    """A run of each method, carried out in one go."""
    root = tmp_path_factory.mktemp("undisturbed")
    runs = {name: make_run(root, learner, pairs, SIX | changes) for name, changes in METHODS.items()}
    ends = {name: trainers.start(run).wait() for name, run in runs.items()}
    assert {name: end.err for name, end in ends.items() if end.code} == {}
    return runs


def _tagged(run: RunDir, tag: str) -> list[Any]:
    return [line[tag] for line in lines(run.metrics_file) if tag in line]


@pytest.mark.parametrize("name", AT_START)
def test_a_run_with_a_reference_starts_at_its_constant_with_rewards_of_zero(
    undisturbed: dict[str, RunDir], name: str
) -> None:
    run = undisturbed[name]
    assert _tagged(run, "train/loss")[0] == pytest.approx(AT_START[name], rel=1e-15)
    assert _tagged(run, "eval/loss")[0] == pytest.approx(AT_START[name], rel=1e-15)
    for tag in ("train/rewards/chosen", "train/rewards/margins", "eval/rewards/chosen"):
        assert _tagged(run, tag)[0] == 0.0


@pytest.mark.parametrize("name", METHODS)
def test_it_learns_what_is_better(undisturbed: dict[str, RunDir], name: str) -> None:
    losses, margins = (
        _tagged(undisturbed[name], "train/loss"),
        _tagged(undisturbed[name], "train/rewards/margins"),
    )
    assert losses[-1] < losses[0]
    assert margins[-1] > margins[0]
    assert 0.0 <= _tagged(undisturbed[name], "train/mean_token_accuracy")[-1] <= 1.0


def _same(run: RunDir, whole: RunDir) -> None:
    assert run.status() is RunStatus.FINISHED
    assert result_bytes(run) == result_bytes(whole)
    assert series(run) == series(whole)


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_killed_in_the_reference_pass_and_later_it_ends_in_the_same_bits(
    trainers: Trainers, undisturbed: dict[str, RunDir], tmp_path: Path, learner: Path, pairs: Path, name: str
) -> None:
    run = make_run(tmp_path / "runs", learner, pairs, SIX | METHODS[name])
    assert trainers.start(run, code=KILL_IN_REFERENCE.format(after=1)).wait().code == -signal.SIGKILL
    assert not run.reference_file.exists()
    assert trainers.start(run, code=KILL_AFTER_STEP.format(step=1)).wait().code == -signal.SIGKILL
    kept = run.reference_file.read_bytes()
    assert trainers.start(run, code=KILL_AFTER_STEP.format(step=5)).wait().code == -signal.SIGKILL
    assert trainers.start(run).wait().code == 0
    assert run.reference_file.read_bytes() == kept == undisturbed[name].reference_file.read_bytes()
    _same(run, undisturbed[name])


def test_a_reference_that_is_lost_is_computed_again_to_the_same_bits(
    trainers: Trainers, undisturbed: dict[str, RunDir], tmp_path: Path, learner: Path, pairs: Path
) -> None:
    run = make_run(tmp_path / "runs", learner, pairs, SIX | METHODS["dpo"])
    assert trainers.start(run, code=KILL_AFTER_STEP.format(step=3)).wait().code == -signal.SIGKILL
    run.reference_file.write_bytes(run.reference_file.read_bytes()[:-9])
    assert trainers.start(run).wait().code == 0
    _same(run, undisturbed["dpo"])


def test_a_model_that_is_not_its_own_reference_is_not_trained(
    trainers: Trainers, tmp_path: Path, learner: Path, pairs: Path
) -> None:
    run = make_run(tmp_path / "runs", learner, pairs, SIX | METHODS["dpo"])
    assert trainers.start(run, code=DISTURB).wait().code == 1
    assert run.state().reason == "reference-differs"
    assert _tagged(run, "train/loss") == []


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_two_processes_equal_one(
    undisturbed: dict[str, RunDir], tmp_path: Path, learner: Path, pairs: Path, name: str
) -> None:
    together = {"training.nproc_per_node": 2, "training.per_device_train_batch_size": 2}
    run = make_run(tmp_path / "runs", learner, pairs, SIX | METHODS[name] | together)
    process_manager.start(run)
    state = process_manager.wait(run, timeout_seconds=PATIENCE_SECONDS)
    assert state.status is RunStatus.FINISHED, run.train_log.read_text()
    for tag in ("train/loss", "train/rewards/margins", "eval/loss"):
        assert _tagged(run, tag) == pytest.approx(_tagged(undisturbed[name], tag), rel=1e-4, abs=1e-6)
    ours, theirs = (
        load_file(each.adapter / "adapter_model.safetensors") for each in (run, undisturbed[name])
    )
    assert all(abs(ours[part] - theirs[part]).max() < 1e-4 for part in theirs)
