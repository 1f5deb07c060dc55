"""Layers computed again give the same gradient to the bit and keep less: backend/training/recompute.py."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel, PreTrainedModel

from backend.core.lanes import Lanes
from backend.errors import ModelError
from backend.run.config import TrainingConfig, TuningConfig
from backend.training.batching import pack
from backend.training.forward import ForwardPass, choose_forward
from backend.training.gradients import step_gradients
from backend.training.loop import TrainState
from backend.training.objective import Supervised
from backend.training.recompute import recompute_layers
from backend.training.tuning import make_trainable
from tests.backend.core.odd_models import functional_dropout, long_rope
from tests.backend.core.rows import FULL, LORA, PLAN, lively_model, no_total, random_rows, shake
from tests.tiny import Architecture

ROWS = random_rows([9, 14, 20, 7, 30, 12, 25, 18], shared=5, vocab=128)


def _state(model: PreTrainedModel, tuning: TuningConfig, *, again: bool) -> TrainState:
    trainable = make_trainable(model, tuning, seed=0)
    for _ in range(again):
        recompute_layers(trainable)
    state = TrainState.start(choose_forward(trainable, longest_row=64), TrainingConfig())
    shake(state)
    return state


def _gradients(state: TrainState, *, lanes: int = 2) -> list[Tensor]:
    forward = state.forward
    batches = pack(ROWS, budget=40, share_prefixes=forward.packed and not forward.is_random)
    with Lanes(lanes) as pool:
        found = step_gradients(
            forward,
            list(state.parameters.values()),
            batches,
            PLAN,
            pool,
            objective=Supervised(),
            total=no_total,
            seed=0,
            step=1,
        )
    return [torch.tensor(found.loss), *found.gradients]


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_gradient_is_the_same_to_the_bit(architecture: Architecture, tuning: TuningConfig) -> None:
    plain, again = (_state(lively_model(architecture), tuning, again=on) for on in (False, True))

    assert plain.forward.packed == again.forward.packed
    assert _equal(_gradients(again), _gradients(plain))
    assert _equal(_gradients(again), _gradients(again, lanes=1))


def test_so_it_is_for_padded_rows() -> None:
    states = [_state(lively_model(), FULL, again=on) for on in (False, True)]
    for state in states:
        state.forward.causal.set_attn_implementation("sdpa")
        state.forward = ForwardPass(state.forward.model, packed=False)

    assert _equal(*(_gradients(state) for state in states))


@pytest.mark.parametrize("build", [functional_dropout, long_rope, partial(lively_model, "gpt2")])
def test_what_is_drawn_is_drawn_again_and_long_rows_keep_their_positions(build: Any) -> None:
    plain, again = (_state(build(), FULL, again=on) for on in (False, True))

    assert plain.forward.is_random == again.forward.is_random
    assert _equal(_gradients(again, lanes=1), _gradients(plain, lanes=1))


def test_dropout_of_an_adapter_is_drawn_again() -> None:
    dropout = TuningConfig(lora_r=4, lora_dropout=0.3)
    plain, again = (_state(lively_model(), dropout, again=on) for on in (False, True))

    assert again.forward.is_random
    assert _equal(_gradients(again, lanes=1), _gradients(plain, lanes=1))


def _kept_bytes(state: TrainState) -> int:
    """Bytes that a forward pass keeps for the backward pass, outside of what it will compute again."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    (batch,) = pack(ROWS, budget=1000)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        state.forward.loss_sum(batch)
    weights = {part.data_ptr() for part in state.forward.model.parameters()}
    return sum(size for place, size in kept.items() if place not in weights)


def test_less_is_kept() -> None:
    plain, again = (_state(lively_model(), LORA, again=on) for on in (False, True))

    assert _kept_bytes(again) < _kept_bytes(plain) / 4


def test_without_a_gradient_nothing_is_computed_twice() -> None:
    state = _state(lively_model(), LORA, again=True)
    state.forward = ForwardPass(state.forward.model, packed=True)
    calls: list[int] = []
    layer = state.forward.body.layers[0].mlp
    layer.register_forward_hook(lambda *_: calls.append(1))
    (batch,) = pack(ROWS, budget=1000)

    state.forward.model.eval()
    state.forward.loss_sum(batch).backward()
    in_evaluation = len(calls)
    state.forward.model.train()
    state.forward.loss_sum(batch).backward()

    assert (in_evaluation, len(calls) - in_evaluation) == (1, 2)


def test_a_model_whose_layers_cannot_is_refused() -> None:
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=64, n_embd=16, n_layer=1, n_head=2))

    with pytest.raises(ModelError, match="no layers that can be computed again") as caught:
        recompute_layers(model)

    assert caught.value.code == "no-layers-to-recompute"
    assert "micro_batch_tokens" in caught.value.remedy
