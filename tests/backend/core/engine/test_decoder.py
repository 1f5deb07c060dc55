"""The layers that are written out compute what those of transformers do, and say what they cannot compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from backend.core.engine.decoder import Decoder
from backend.run.config import TuningConfig
from backend.training.batching import pack
from backend.training.forward import ForwardPass, choose_forward
from backend.training.loop import TrainState
from tests.backend.core.rows import FULL, LORA, lively_model, random_rows, shake, start

ROWS = random_rows([9, 14, 20, 7, 30], shared=5)
(BATCH,) = pack(ROWS, budget=10_000)
SOME = TuningConfig(
    lora_r=4, lora_target_modules=["q_proj", "down_proj"], layers_to_transform=[1], use_rslora=True
)
RANKS = TuningConfig(lora_r=4, rank_pattern={"k_proj": 2, "up_proj": 7})


def _mistral() -> PreTrainedModel:
    config = MistralConfig(
        vocab_size=512, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=10, sliding_window=None, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    return MistralForCausalLM(config).eval()


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lively_model,
    "llama, biases": lambda: lively_model(attention_bias=True, mlp_bias=True),
    "llama, heads alike": lambda: lively_model(num_key_value_heads=4),
    "llama, scaled rope": lambda: lively_model(
        rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    ),
    "qwen2": lambda: lively_model("qwen2"),
    "qwen3": lambda: lively_model("qwen3"),
    "mistral": _mistral,
}


def _both(state: TrainState) -> tuple[ForwardPass, ForwardPass]:
    """The pass with layers written out, and the same with those of transformers."""
    assert isinstance(state.forward.layers, Decoder), state.forward.layers
    return state.forward, replace(state.forward, layers="")


def _gradients(forward: ForwardPass, state: TrainState) -> list[Tensor]:
    loss = forward.loss_sum(BATCH)
    return list(
        torch.autograd.grad(loss, list(state.parameters.values()), allow_unused=True, materialize_grads=True)
    )


def _error(found: list[Tensor], wanted: list[Tensor]) -> float:
    one, other = (torch.cat([each.double().flatten() for each in every]) for every in (found, wanted))
    return float((one - other).norm() / other.norm())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("tuning", [LORA, FULL, SOME, RANKS], ids=["lora", "full", "some", "ranks"])
@pytest.mark.parametrize("name", MODELS)
def test_states_and_gradients_are_those_of_transformers(name: str, tuning: TuningConfig) -> None:
    state = start(MODELS[name](), tuning)
    shake(state)
    ours, theirs = _both(state)

    torch.testing.assert_close(ours.hidden_states(BATCH), theirs.hidden_states(BATCH), rtol=1e-4, atol=1e-4)
    assert _error(_gradients(ours, state), _gradients(theirs, state)) < 1e-5


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_in_bfloat16_gradients_are_no_further_from_the_exact_ones(name: str) -> None:
    exact = start(MODELS[name](), LORA)
    shake(exact)
    wanted = _gradients(exact.forward, exact)
    state = start(MODELS[name]().to(torch.bfloat16), LORA)
    shake(state)
    ours, theirs = _both(state)

    assert _error(_gradients(ours, state), wanted) < 1.25 * _error(_gradients(theirs, state), wanted)


def test_an_adapter_that_is_switched_off_has_no_effect() -> None:
    state = start(lively_model(), LORA)
    shake(state)
    with_adapter = state.forward.hidden_states(BATCH).detach()

    with state.forward.model.disable_adapter(), torch.no_grad():
        without = state.forward.hidden_states(BATCH)
        own = replace(state.forward, layers="").hidden_states(BATCH)

    torch.testing.assert_close(without, own, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(without, with_adapter, atol=1e-2)


def _changed_norm(model: PreTrainedModel) -> None:
    model.model.layers[1].input_layernorm.variance_epsilon = 0.5


def _changed_layer(model: PreTrainedModel) -> None:
    layer = model.model.layers[1]
    layer.__class__ = type("Other", (type(layer),), {})


def _changed_product(model: PreTrainedModel) -> None:
    part = model.model.layers[0].mlp.up_proj
    part.__class__ = type("Odd", (nn.Linear,), {})


def _changed_precision(model: PreTrainedModel) -> None:
    model.model.layers[0].mlp.up_proj.to(torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_changed_norm, "norms differ"),
        (_changed_layer, "not those of transformers"),
        (_changed_product, "not plain matrices"),
        (_changed_precision, "several precisions"),
        (lambda model: setattr(model.config, "hidden_act", "gelu"), "activation gelu"),
        (lambda model: setattr(model.config, "attention_dropout", 0.1), "dropout"),
    ],
)
def test_what_is_not_written_out_is_said(change: Callable[[PreTrainedModel], object], why: str) -> None:
    model = lively_model()
    change(model)

    assert why in str(Decoder.of(model, model.model))


@pytest.mark.parametrize(
    ("tuning", "why"),
    [
        (TuningConfig(lora_r=4, use_dora=True), "DoRA"),
        (TuningConfig(lora_r=4, lora_dropout=0.1), "dropout"),
        (
            TuningConfig(lora_r=4, lora_target_modules=["q_proj"], modules_to_save=["up_proj"]),
            "plain matrices",
        ),
    ],
    ids=["dora", "dropout", "whole layers"],
)
def test_with_other_adapters_the_layers_of_transformers_run(tuning: TuningConfig, why: str) -> None:
    state = start(lively_model(), tuning)

    assert why in str(state.forward.layers)
    assert state.forward.layers_used == "transformers"


def test_another_family_is_named() -> None:
    forward = choose_forward(lively_model("gpt2", initializer_range=0.1))

    assert isinstance(forward.layers, str)
    assert "gpt2" in forward.layers or "padded" in forward.layers
