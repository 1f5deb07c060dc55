from __future__ import annotations

import torch

from backend.core.engine.engine import Engine
from backend.core.engine.forward import Reading
from backend.core.engine.seat import Seat
from backend.inference.engine_runner import EngineRunner
from tests.backend.core.engine.models import model_of

SHARED = list(range(20, 32))
PROMPTS = [[*SHARED, 1], [*SHARED, 2, 3, 4], [*SHARED, 5, 6]]


def _engine() -> Engine:
    return Engine(model_of("llama"))


def _alone(engine: Engine, ids: list[int]) -> torch.Tensor:
    return engine.read([Reading(Seat(engine.block), ids)])[0]


def test_rows_are_those_they_would_be_alone() -> None:
    engine = _engine()
    runner = EngineRunner(engine, PROMPTS, [0, 1, 2])
    first = runner.logits()
    runner.advance({0: 7, 1: 8, 2: 9})
    second = runner.logits()
    assert runner.slots == [0, 1, 2]
    for row, token in ((0, 7), (1, 8), (2, 9)):
        assert torch.equal(first[row], _alone(engine, PROMPTS[row]))
        assert torch.equal(second[row], _alone(engine, [*PROMPTS[row], token]))


def test_rows_leave_and_join() -> None:
    engine = _engine()
    runner = EngineRunner(engine, PROMPTS, [0, 1, 2])
    runner.logits()
    runner.remove({1, 5})
    runner.advance({0: 7, 2: 9})
    cache = Seat(engine.block)
    engine.read([Reading(cache, [40, 41, 42], asks=False)])
    runner.join([40, 41, 42, 43], cache, [3, 4])
    assert runner.accepts_rows
    assert runner.active == [0, 2, 3, 4]
    logits = runner.logits()
    expected = [[*PROMPTS[0], 7], [*PROMPTS[2], 9], *[[40, 41, 42, 43]] * 2]
    assert all(torch.equal(row, _alone(engine, ids)) for row, ids in zip(logits, expected, strict=True))


def test_rows_begin_beside_others_with_what_the_first_shared_or_without() -> None:
    engine = _engine()
    runner = EngineRunner(engine, PROMPTS[:2], [0, 1])
    runner.logits()
    runner.advance({0: 7, 1: 8})
    others = [PROMPTS[2], [60, 61], SHARED]
    runner.begin(others, [2, 3, 4])
    expected = [[*PROMPTS[0], 7], [*PROMPTS[1], 8], *others]
    assert all(
        torch.equal(row, _alone(engine, ids)) for row, ids in zip(runner.logits(), expected, strict=True)
    )


def test_a_prompt_of_one_token_and_no_prompts() -> None:
    engine = _engine()
    assert torch.equal(EngineRunner(engine, [[5]], [0]).logits()[0], _alone(engine, [5]))
    assert EngineRunner(engine, [], []).active == []
