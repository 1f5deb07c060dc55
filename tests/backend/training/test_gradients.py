"""The gradient of a step is what plain transformers and peft compute, however it is split, bit for bit again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from backend.core.device import ComputePlan
from backend.core.encoding.examples import Example
from backend.core.lanes import Lanes
from backend.core.packed_attention import MicroBatch
from backend.errors import TrainingError
from backend.run.config import TuningConfig
from backend.training.batching import pack
from backend.training.distributed import World
from backend.training.forward import ForwardPass
from backend.training.gradients import step_gradients
from backend.training.loop import TrainState
from backend.training.objective import Supervised
from tests.backend.core.odd_models import (
    dynamic_rope,
    functional_dropout,
    jittering_router,
    long_rope,
    with_vision,
)
from tests.backend.core.rows import (
    FULL,
    LORA,
    PLAN,
    Watched,
    lively_model,
    no_total,
    random_rows,
    shake,
    start,
)

ROWS = random_rows([9, 14, 20, 7, 30, 12, 25, 18], shared=5)
DROPOUT = TuningConfig(lora_r=4, lora_dropout=0.3)


def _plain(model: PreTrainedModel, tuning: TuningConfig) -> nn.Module:
    settings = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    return {"lora": lambda: get_peft_model(model, settings), "full": lambda: model}[tuning.method]()


def _plain_step(model: nn.Module, rows: Sequence[Example]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients as everybody computes them: right-padded rows, labels -100 where nothing is learned."""
    width = max(len(row.input_ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for line, row in enumerate(rows):
        length = len(row.input_ids)
        ids[line, :length], mask[line, :length] = torch.tensor(row.input_ids), 1
        labels[line, :length] = ids[line, :length].masked_fill(~torch.tensor(row.trained), -100)
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    return loss.item(), {name: part.grad for name, part in model.named_parameters() if part.grad is not None}


def _step(
    state: TrainState,
    rows: Sequence[Example] = ROWS,
    *,
    budget: int = 10_000,
    lanes: int = 2,
    plan: ComputePlan = PLAN,
    seed: int = 0,
    step: int = 1,
) -> tuple[float, list[Tensor], list[MicroBatch]]:
    """(loss, gradients, micro-batches) of one step as the loop computes it."""
    forward, parameters = state.forward, list(state.parameters.values())
    batches = pack(rows, budget=budget, share_prefixes=forward.packed and not forward.is_random)
    with Lanes(lanes) as pool:
        found = step_gradients(
            forward,
            parameters,
            batches,
            plan,
            pool,
            objective=Supervised(),
            total=no_total,
            seed=seed,
            step=step,
        )
    return found.loss, found.gradients, batches


def _relative_error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    difference = math.sqrt(
        sum(float((a - b).double().square().sum()) for a, b in zip(found, wanted, strict=True))
    )
    return difference / math.sqrt(sum(float(b.double().square().sum()) for b in wanted))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize(
    ("architecture", "packed"), [("llama", True), ("qwen2", True), ("qwen3", True), ("llama", False)]
)
def test_a_real_step_has_the_gradients_of_transformers_and_peft(
    architecture: str, packed: bool, tuning: TuningConfig
) -> None:
    state = start(lively_model(architecture), tuning)
    shake(state)
    state.forward.causal.set_attn_implementation({True: "tunesmith_packed", False: "sdpa"}[packed])
    state.forward = ForwardPass(state.forward.model, packed=packed)
    plain = _plain(lively_model(architecture), tuning)
    with torch.no_grad():
        for name, part in plain.named_parameters():
            part.copy_(state.forward.model.get_parameter(name))

    loss, gradients, _ = _step(state, budget=60)
    plain_loss, plain_gradients = _plain_step(plain, ROWS)

    assert loss == pytest.approx(plain_loss, rel=1e-5)
    assert plain_gradients.keys() == state.parameters.keys()
    wanted = [plain_gradients[name] for name in state.parameters]
    assert _relative_error(gradients, wanted) < 1e-4
    for found, expected in zip(gradients, wanted, strict=True):
        assert _relative_error([found], [expected]) < 1e-3


@pytest.mark.parametrize("budget", [8, 20, 40])
@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_micro_batches_add_up_to_one_batch(budget: int, tuning: TuningConfig) -> None:
    state = start(lively_model(), tuning)
    shake(state)

    whole_loss, whole, one = _step(state)
    loss, parts, many = _step(state, budget=budget)

    assert len(one) == 1
    assert len(many) >= 4
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    assert _relative_error(parts, whole) < 1e-5


@pytest.mark.parametrize("lanes", [2, 3])
def test_the_number_of_lanes_at_work_changes_no_bit(lanes: int) -> None:
    state = start(lively_model())
    shake(state)

    one_loss, one, _ = _step(state, budget=20, lanes=1)
    loss, many, _ = _step(state, budget=20, lanes=lanes)

    assert loss == one_loss
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))


def test_dropout_is_at_work_and_drawn_from_the_runs_seed() -> None:
    state = start(lively_model(), DROPOUT)
    shake(state)

    def loss(seed: int, step: int) -> float:
        torch.rand(3)  # the global generator is none of its business
        return _step(state, budget=40, lanes=1, seed=seed, step=step)[0]

    losses = [loss(0, 1), loss(1, 1), loss(0, 2)]
    state.forward.model.eval()

    assert losses[0] != loss(0, 1)
    state.forward.model.train()
    assert losses[0] == loss(0, 1)
    assert len(set(losses)) == 3


@pytest.mark.parametrize("build", [functional_dropout, jittering_router])
@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_whatever_draws_in_a_model_draws_from_the_runs_seed(
    build: Callable[[], PreTrainedModel], tuning: TuningConfig
) -> None:
    state = start(build(), tuning)
    rows = random_rows([9, 14, 20, 7], shared=5, vocab=128)

    def step(seed: int) -> tuple[float, list[Tensor]]:
        torch.rand(3)
        return _step(state, rows, budget=20, lanes=1, seed=seed)[:2]

    (first, gradients), (again, same), (_, others) = step(0), step(0), step(1)

    assert first == again
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("build", [long_rope, dynamic_rope])
def test_rows_on_both_sides_of_a_length_dependent_rope_do_not_change_each_other(
    build: Callable[[], PreTrainedModel], lanes: int
) -> None:
    rows = random_rows([9, 14, 20, 7, 30, 60], shared=5, vocab=128)
    plain = build().requires_grad_(requires_grad=True)
    count = sum(int(row.trained[1:].sum()) for row in rows)
    for row in rows:
        alone = build()
        alone.load_state_dict(plain.state_dict())
        _plain_step(alone, [row])
        share = int(row.trained[1:].sum()) / count
        for mine, theirs in zip(plain.parameters(), alone.parameters(), strict=True):
            mine.grad = theirs.grad * share + (0 if mine.grad is None else mine.grad)
    state = start(build(), FULL)

    _, gradients, _ = _step(state, rows, budget=50, lanes=lanes)

    assert _relative_error(gradients, [part.grad for part in plain.parameters()]) < 1e-4


def test_a_weight_without_a_part_in_the_loss_gets_zeros() -> None:
    state = start(with_vision(), LORA)
    tower = state.forward.causal.model.multi_modal_projector.mm_input_projection_weight
    state.parameters["tower"] = tower.requires_grad_(requires_grad=True)

    _, gradients, _ = _step(state, random_rows([9, 14], vocab=120))

    assert not gradients[-1].any()
    assert gradients[-1].shape == tower.shape


def test_a_process_without_a_share_adds_nothing() -> None:
    state = start(lively_model())
    batches = pack(ROWS, budget=10_000)
    alone = _Second(rank=1, size=2)

    with Lanes(1) as pool:
        found = step_gradients(
            state.forward, list(state.parameters.values()), batches, PLAN, pool, alone,
            objective=Supervised(), total=no_total, seed=0, step=1,
        )  # fmt: skip

    assert len(batches) == 1
    assert found.loss == 0.0
    assert [part.shape for part in found.gradients] == [part.shape for part in state.parameters.values()]
    assert not any(part.any() for part in found.gradients)


class _Second(World):
    """The second of two processes, with nobody there to add up with."""

    def all_reduce(self, numbers: Sequence[float], gradients: Sequence[Tensor] = ()) -> list[float]:
        return list(numbers)


def _allocate(_: MicroBatch) -> None:
    torch.empty(1 << 50, dtype=torch.uint8)


def _exhaust(_: MicroBatch) -> None:
    raise MemoryError


def _gpu_exhausted(_: MicroBatch) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("look", [_allocate, _exhaust, _gpu_exhausted])
def test_memory_that_runs_out_is_said_with_what_to_lower(look: Callable[[MicroBatch], None]) -> None:
    state = start(lively_model())
    state.forward = Watched(state.forward.model, packed=True, look=look)

    with pytest.raises(TrainingError, match=r"Memory ran out at step 1 with up to \d+ tokens") as caught:
        _step(state)

    assert caught.value.code == "out-of-memory"
    assert "micro_batch_tokens" in caught.value.remedy


def test_any_other_error_is_not_called_memory() -> None:
    state = start(lively_model())

    def break_(_: MicroBatch) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    state.forward = Watched(state.forward.model, packed=True, look=break_)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        _step(state)
