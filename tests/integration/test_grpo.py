"""Runs that learn from rewards: measured, the same bits after any kill, and nothing lost by a bad reward."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from backend.manager import process_manager
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from tests.runs import SHORT, lines, make_run, result_bytes, series, write_rows
from tests.trainers import Trainers

PATIENCE_SECONDS = 240.0
PROMPTS = [{"prompt": f"food number {number}", "level": number} for number in range(24)]
GRPO = SHORT | {
    "objective.method": "grpo",
    "objective.rewards": [{"type": "contains", "value": "e"}],
    "objective.num_generations": 4,
    "objective.max_completion_length": 8,
    "training.max_steps": 6,
    "training.save_steps": 2,
    "evaluation.eval_steps": 3,
}
FAILING = """
def fails(completions, level, **rest):
    if len(open({log!r}, "a").write("x") and open({log!r}).read()) > {after}:
        raise ValueError("no price")
    return [float("e" in said) for said in completions]
"""
KILL_WHILE_SAMPLING = """
import os, signal
from backend.training import rollouts
real = rollouts.Rollouts._sampled
def killing(self, step, prompts):
    if step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, step, prompts)
rollouts.Rollouts._sampled = killing
"""
KILL_WHILE_UPDATING = """
import os, signal
from backend.training import loop
real = loop._update
def killing(state, *given, step, **options):
    found = real(state, *given, step=step, **options)
    if step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
loop._update = killing
"""


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", PROMPTS)


@pytest.fixture(scope="module")
def undisturbed(
    trainers: Trainers, tmp_path_factory: pytest.TempPathFactory, learner: Path, prompts: Path
) -> RunDir:
    run = make_run(tmp_path_factory.mktemp("undisturbed"), learner, prompts, GRPO)
    assert trainers.start(run).wait().code == 0
    return run


def _tagged(run: RunDir, tag: str) -> list[Any]:
    return [line[tag] for line in lines(run.metrics_file) if tag in line]


def test_a_run_measures_rewards_keeps_answers_and_audits_first(undisturbed: RunDir) -> None:
    assert undisturbed.status() is RunStatus.FINISHED
    assert len(_tagged(undisturbed, "train/reward")) == 6
    assert len(_tagged(undisturbed, "eval/reward")) == 3
    assert _tagged(undisturbed, "eval/loss") == []
    kept = lines(undisturbed.completions_file)
    assert {line["step"] for line in kept} == set(range(1, 7))
    assert {"prompt", "completion", "reward", "rewards", "advantage"} < kept[0].keys()
    audited = undisturbed.read_reward_audit()
    assert audited is not None
    assert audited.generations == 4


@pytest.mark.parametrize("code", [KILL_WHILE_SAMPLING, KILL_WHILE_UPDATING], ids=["sampling", "updating"])
def test_killed_while_sampling_or_updating_it_ends_in_the_same_bits(
    trainers: Trainers, undisturbed: RunDir, tmp_path: Path, learner: Path, prompts: Path, code: str
) -> None:
    run = make_run(tmp_path / "runs", learner, prompts, GRPO)
    for step in (1, 4):
        assert trainers.start(run, code=code.format(step=step)).wait().code == -signal.SIGKILL
        assert run.status() is RunStatus.INTERRUPTED
    assert trainers.start(run).wait().code == 0
    assert result_bytes(run) == result_bytes(undisturbed)
    assert series(run) == series(undisturbed)
    assert lines(run.completions_file) == lines(undisturbed.completions_file)


@pytest.mark.parametrize("evaluated_every", [0, 3])
def test_a_reward_function_that_raises_ends_the_run_with_the_row_and_loses_nothing(
    trainers: Trainers, tmp_path: Path, learner: Path, prompts: Path, evaluated_every: int
) -> None:
    log, file = tmp_path / "calls", tmp_path / "mine.py"
    # 16 prompts of the audit, those of two held-out rows, then four in each step: it fails in the fourth, or in
    # the evaluation after the third
    file.write_text(FAILING.format(log=str(log), after=16 + 2 + 3 * 4), encoding="utf-8")
    mine = GRPO | {
        "objective.rewards": [],
        "objective.reward_funcs": [f"{file}:fails"],
        "training.save_steps": 0,
        "evaluation.eval_steps": evaluated_every,
    }
    run = make_run(tmp_path / "runs", learner, prompts, mine)
    assert trainers.start(run).wait().code == 1
    outcome = run.read_outcome()
    assert outcome is not None
    assert (outcome.status, outcome.code) == (RunStatus.FAILED, "reward-failed")
    assert "ValueError: no price" in outcome.message
    assert "prompts.jsonl:" in outcome.message
    assert run.newest_checkpoint_step() == len(_tagged(run, "train/reward")) == 3


def test_a_task_that_teaches_nothing_is_refused_before_the_first_step(
    trainers: Trainers, tmp_path: Path, learner: Path, prompts: Path
) -> None:
    hard = GRPO | {"objective.rewards": [{"type": "equals", "value": "a giraffe"}]}
    run = make_run(tmp_path / "runs", learner, prompts, hard)
    assert trainers.start(run).wait().code == 2
    outcome = run.read_outcome()
    assert outcome is not None
    assert outcome.code == "flat-rewards"
    assert _tagged(run, "train/reward") == []
    assert run.read_reward_audit() is not None


def test_two_processes_share_the_questions_of_a_step_and_equal_one(
    undisturbed: RunDir, tmp_path: Path, learner: Path, prompts: Path
) -> None:
    together = {"training.nproc_per_node": 2, "training.per_device_train_batch_size": 2}
    run = make_run(tmp_path / "runs", learner, prompts, GRPO | together)
    process_manager.start(run)
    state = process_manager.wait(run, timeout_seconds=PATIENCE_SECONDS)
    assert state.status is RunStatus.FINISHED, run.train_log.read_text()
    for tag in ("train/reward", "train/entropy", "eval/reward"):
        assert _tagged(run, tag)[:3] == pytest.approx(_tagged(undisturbed, tag)[:3], rel=1e-3, abs=1e-6)
