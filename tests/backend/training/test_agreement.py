"""What several processes of a run must have in common; test_distributed has real processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import create_autospec

import pytest
import torch
from torch import nn

from backend.errors import RunError
from backend.run.environment import Facts
from backend.run.folder import RunDir
from backend.run.reports import StepReport
from backend.run.settings import parse_config
from backend.training.agreement import (
    COMPARE_STEPS,
    agreed_checkpoint,
    compared,
    require_agreement,
    require_alone,
    require_process_count,
)
from backend.training.checkpoint import newest_good
from backend.training.distributed import World
from backend.training.loop import TrainState

T = TypeVar("T")
CONFIG = parse_config({"data": {"train": "rows.jsonl"}, "training": {"nproc_per_node": 2, "nnodes": 3}})
FACTS = Facts({"rows.jsonl": "1" * 64}, "2" * 32, chat_template="3" * 64)


@dataclass(frozen=True)
class Told(World):
    """A process that is told what rank 0 said, and remembers what it was asked to compare."""

    said: Any = None
    asked: list[dict[str, object]] = field(default_factory=list)

    def broadcast(self, value: T) -> T:
        told: T = self.said
        return told

    def require_same(self, **values: object) -> None:
        self.asked.append(values)


@pytest.fixture
def state() -> TrainState:
    state = create_autospec(TrainState, instance=True)
    state.step, state.parameters = 3, {"a": nn.Parameter(torch.ones(2))}
    return state


@pytest.mark.parametrize("size", [1, 5, 7])
def test_another_number_of_processes_is_refused(size: int) -> None:
    require_process_count(World(0, 6), CONFIG)
    with pytest.raises(RunError, match=f"for 6 processes, not {size}") as caught:
        require_process_count(World(0, size), CONFIG)
    assert caught.value.code == "other-process-count"


@pytest.fixture
def stale(trained: RunDir, tmp_path: Path) -> RunDir:
    """The run as another machine sees it, which has not got the newest checkpoint yet."""
    run = RunDir(Path(shutil.copytree(trained.path, tmp_path / trained.id)))
    shutil.rmtree(run.checkpoint(20))
    return run


def test_all_go_on_from_the_checkpoint_of_the_first(trained: RunDir) -> None:
    newest, _ = newest_good(trained.checkpoints)
    follower = agreed_checkpoint(trained, None, Told(1, 2, said=10))
    assert (follower and follower.step) == 10
    assert agreed_checkpoint(trained, newest, Told(0, 2, said=20)) is newest
    assert agreed_checkpoint(trained, None, Told(1, 2)) is None


def test_one_that_cannot_read_it_does_not_take_another(stale: RunDir) -> None:
    with pytest.raises(RunError, match="step-000020"):
        agreed_checkpoint(stale, None, Told(1, 2, said=20))


@pytest.mark.parametrize(
    "change",
    [
        lambda facts, state: (Facts(facts.data, "other", chat_template=facts.chat_template), state),
        lambda facts, state: (
            Facts({"rows.jsonl": "9"}, facts.model, chat_template=facts.chat_template),
            state,
        ),
        lambda facts, state: (Facts(facts.data, facts.model, chat_template="other"), state),
        lambda facts, state: (facts, _at(state, 2)),
        lambda facts, state: (facts, _with_weights(state)),
    ],
    ids=["base", "data", "template", "step", "weights"],
)
def test_whatever_decides_the_first_step_is_compared(change: Any, state: TrainState) -> None:
    world = Told(0, 2)
    require_agreement(world, CONFIG, FACTS, state)
    facts, changed = change(FACTS, state)
    require_agreement(world, CONFIG, facts, changed)
    first, second = world.asked
    assert len([name for name in first if first[name] != second[name]]) == 1


def _at(state: TrainState, step: int) -> TrainState:
    state.step = step
    return state


def _with_weights(state: TrainState) -> TrainState:
    state.parameters = {"a": nn.Parameter(torch.zeros(2))}
    return state


def _steps(count: int) -> Iterator[StepReport]:
    return (create_autospec(StepReport, instance=True, step=step) for step in range(1, count + 1))


@pytest.mark.parametrize(("size", "times"), [(1, 0), (2, 2)])
def test_the_weights_of_several_are_compared_now_and_then(size: int, times: int, state: TrainState) -> None:
    world = Told(0, size)
    reports = list(compared(_steps(2 * COMPARE_STEPS + 1), state, world))
    assert len(reports) == 2 * COMPARE_STEPS + 1
    assert [list(asked) for asked in world.asked] == [
        [f"weights_after_step_{COMPARE_STEPS}"],
        [f"weights_after_step_{2 * COMPARE_STEPS}"],
    ][:times]


@pytest.mark.parametrize("environ", [{"RANK": "1", "WORLD_SIZE": "2"}, {"RANK": ""}, {"LOCAL_RANK": "3"}])
def test_one_of_several_processes_makes_no_run(environ: dict[str, str]) -> None:
    with pytest.raises(RunError) as caught:
        require_alone(environ)
    assert caught.value.code == "bad-rank"


@pytest.mark.parametrize("environ", [{}, {"RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}])
def test_a_process_that_is_told_it_is_alone_makes_a_run(environ: dict[str, str]) -> None:
    assert require_alone(environ) is None
