"""A step that does not fit is taken again in smaller micro-batches: backend/training/loop.py and checkpoint.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.core.encoding.examples import Example
from backend.core.packed_attention import MicroBatch
from backend.errors import TrainingError
from backend.run.config import TrainingConfig, TuningConfig
from backend.training.checkpoint import read_checkpoint, restore, save_checkpoint
from backend.training.loop import TrainState, train_steps
from tests.backend.core.rows import (
    LORA,
    PLAN,
    Watched,
    lively_model,
    random_rows,
    same_bits,
    start,
    weights,
)
from tests.backend.training.test_distributed import two

ROWS = random_rows([30, 33, 20, 37, 30, 32, 25, 38, 22, 34, 31, 29])
LARGE = TrainingConfig(
    max_steps=4, per_device_train_batch_size=12, learning_rate=1e-2, micro_batch_tokens=160
)
SMALL = LARGE.model_copy(update={"micro_batch_tokens": 80})
DROPOUT = TuningConfig(lora_r=4, lora_dropout=0.3)


def _state(
    training: TrainingConfig, *, room: int = 10_000, from_step: int = 1, tuning: TuningConfig = LORA
) -> TrainState:
    """A training whose memory holds ``room`` tokens of a micro-batch from a step on."""
    state = start(lively_model(), tuning, training)

    def look(batch: MicroBatch) -> None:
        if len(batch.input_ids) > room and state.step + 1 >= from_step:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    forward = state.forward
    state.forward = Watched(forward.model, packed=forward.packed, look=look, draws=forward.draws)
    return state


def _train(
    state: TrainState, training: TrainingConfig, *, until: int = 4, rows: Sequence[Example] = ROWS
) -> tuple[list[float], dict[str, Tensor]]:
    steps = train_steps(state, rows, training, PLAN, seed=0)
    losses = [next(steps).loss for _ in range(until - state.step)]
    steps.close()
    return losses, weights(state)


@pytest.mark.parametrize("tuning", [LORA, DROPOUT], ids=["lora", "dropout"])
def test_memory_that_runs_out_at_once_ends_in_the_bits_of_small_micro_batches(tuning: TuningConfig) -> None:
    losses, learned = _train(_state(LARGE, room=80, tuning=tuning), LARGE)
    expected, wanted = _train(_state(SMALL, tuning=tuning), SMALL)

    assert losses == expected
    assert same_bits(learned, wanted)


@pytest.mark.parametrize("step", [2, 3])
def test_later_it_goes_on_as_small_micro_batches_would_from_there(step: int, tmp_path: Path) -> None:
    state = _state(LARGE, room=80, from_step=step)
    losses, learned = _train(state, LARGE)
    before = _state(LARGE)
    begun, _ = _train(before, LARGE, until=step - 1)
    after = _state(SMALL)
    restore(read_checkpoint(save_checkpoint(tmp_path, before, {})), after)
    rest, wanted = _train(after, SMALL)

    assert state.fitting == {160: 80}
    assert losses == begun + rest
    assert same_bits(learned, wanted)


def test_where_earlier_steps_are_cut_alike_it_is_as_if_small_from_the_start() -> None:
    """Short rows are cut in four by either size; memory runs out when long ones come."""
    large, small = _state(LARGE, room=80), _state(SMALL)
    for state, training in ((large, LARGE), (small, SMALL)):
        _train(state, training, until=1, rows=random_rows([12] * 12, seed=1))
        _train(state, training, until=2, rows=ROWS)

    assert large.fitting == {160: 80}
    assert same_bits(weights(large), weights(small))


def test_the_failed_pass_leaves_no_trace() -> None:
    straight = _state(SMALL)
    state = _state(LARGE, room=80)

    reports = list(train_steps(state, ROWS, LARGE, PLAN, seed=0))
    expected = list(train_steps(straight, ROWS, SMALL, PLAN, seed=0))

    assert [(one.step, one.tokens, one.tokens_seen, one.rows) for one in reports] == [
        (one.step, one.tokens, one.tokens_seen, one.rows) for one in expected
    ]


def test_it_is_halved_as_often_as_it_takes() -> None:
    state = _state(LARGE, room=45)
    _, learned = _train(state, LARGE)
    tiny = LARGE.model_copy(update={"micro_batch_tokens": 40})

    assert state.fitting == {160: 40}
    assert same_bits(learned, _train(_state(tiny), tiny)[1])


def test_a_resume_goes_on_with_the_size_that_fitted(tmp_path: Path) -> None:
    straight = _state(LARGE, room=80, from_step=2)
    losses, learned = _train(straight, LARGE)
    first = _state(LARGE, room=80, from_step=2)
    begun, _ = _train(first, LARGE, until=3)
    resumed = _state(LARGE)  # where memory would hold more now

    restore(read_checkpoint(save_checkpoint(tmp_path, first, {})), resumed)
    rest, wanted = _train(resumed, LARGE)

    assert begun + rest == losses
    assert same_bits(wanted, learned)


def test_another_size_that_is_asked_for_is_taken_at_its_word(tmp_path: Path) -> None:
    first = _state(LARGE, room=80)
    _train(first, LARGE, until=1)
    sizes: list[int] = []
    branch = start(lively_model(), LORA, LARGE)
    branch.forward = Watched(
        branch.forward.model, packed=True, look=lambda batch: sizes.append(len(batch.input_ids))
    )
    wide = LARGE.model_copy(update={"micro_batch_tokens": 2048})

    restore(read_checkpoint(save_checkpoint(tmp_path, first, {})), branch)
    _train(branch, wide, until=2)

    assert max(sizes) > 80


def test_where_one_row_does_not_fit_nothing_is_changed() -> None:
    state = _state(LARGE, room=37, from_step=2)
    _, before = _train(state, LARGE, until=1)

    with pytest.raises(TrainingError, match="Memory ran out at step 2 with up to 38 tokens") as caught:
        _train(state, LARGE)

    assert caught.value.code == "out-of-memory"
    assert "max_length" in caught.value.remedy
    assert state.step == 1
    assert same_bits(weights(state), before)


TWO = """from backend.training.distributed import weights_checksum
from tests.integration.test_out_of_memory import LARGE, PLAN, ROWS, _state, train_steps
state = _state(LARGE, room=40 if world.rank else 10_000, from_step=2)
losses = [report.loss for report in train_steps(state, ROWS, LARGE, PLAN, seed=0, world=world)]
return [losses, list(state.fitting.values()), weights_checksum(state.parameters.values())]"""


def test_all_processes_take_the_size_that_fits_the_one_with_the_least_memory(tmp_path: Path) -> None:
    first, second = two(tmp_path, TWO, timeout_seconds=240)

    assert first == second
    assert first[1] == [40]
