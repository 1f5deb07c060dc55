"""What a text reaches in a model, and what the architecture keeps fixed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from backend.core.model_loader import load_base
from backend.core.quantized import Quantization
from backend.errors import ModelError
from backend.inference.decode_proof import prove_decoding
from backend.training.forward import choose_forward
from backend.training.reach import Reach, fixed_parameters, reach_of_text, text_body
from tests.backend.core.odd_models import jittering_router, router_bias, with_vision
from tests.tiny import quiet_transformers, tiny_model


def test_a_text_reaches_every_weight_of_a_text_model() -> None:
    model = tiny_model()
    reach = reach_of_text(model)
    assert all(reach.has_parameter(name) for name, _ in model.named_parameters())
    assert reach.has_layer("model.layers.1.self_attn.q_proj")
    assert not reach.has_layer("model.layers.1.self_attn")


def test_no_text_reaches_a_vision_tower() -> None:
    model = with_vision()
    reach = reach_of_text(model)
    outside = {name for name, _ in model.named_parameters() if not reach.has_parameter(name)}
    assert outside == {name for name, _ in model.named_parameters() if "language_model" not in name}
    assert len(outside) > 10
    assert text_body(model) is model.model.language_model


def test_a_bias_that_only_chooses_experts_is_not_reached_and_stays_fixed_when_loaded(tmp_path: Path) -> None:
    model = router_bias()
    with quiet_transformers():
        model.save_pretrained(tmp_path)
    loaded = load_base(tmp_path)
    bias = "model.layers.1.mlp.expert_bias"
    assert loaded.get_parameter(bias).requires_grad  # loading forgets it
    assert fixed_parameters(loaded) == {bias}
    assert not reach_of_text(loaded).has_parameter(bias)


def test_experts_that_no_token_came_to_are_reached_like_their_neighbours() -> None:
    reach = Reach(frozenset({"model.layers.*.experts.*.w1.weight"}))
    assert reach.has_layer("model.layers.7.experts.63.w1")
    assert not reach.has_layer("model.vision.7.w1")


def test_linear_layers_that_return_several_tensors_take_no_adapter() -> None:
    reach = reach_of_text(jittering_router())
    assert reach.has_parameter("model.layers.0.mlp.router.weight")
    assert not reach.has_layer("model.layers.0.mlp.router")


def test_all_is_reached_of_a_model_that_is_not_run() -> None:
    assert Reach.everything().has_layer("anything")


@pytest.mark.parametrize("training", [True, False])
def test_looking_leaves_the_model_as_it_was(training: bool) -> None:
    model = tiny_model().train(training)
    model.lm_head.weight.requires_grad = False
    before = [part.requires_grad for part in model.parameters()]
    reach_of_text(model)
    assert [part.requires_grad for part in model.parameters()] == before
    assert model.training is training
    assert all(part.grad is None for part in model.parameters())


def test_a_model_that_cannot_read_a_text_is_refused() -> None:
    model = tiny_model()
    model.base_model.forward = lambda **_: torch.ones(3)
    with pytest.raises(ModelError, match="llama") as caught:
        reach_of_text(model)
    assert caught.value.code == "unsupported-architecture"


@pytest.mark.parametrize("positions", [8, 16])
def test_a_model_with_a_short_context_is_proved_within_it(positions: int) -> None:
    model = tiny_model("gpt2", n_positions=positions)
    assert reach_of_text(model).has_parameter("transformer.h.0.attn.c_attn.weight")
    choose_forward(model, longest_row=positions)
    prove_decoding(model)


@pytest.mark.parametrize("make", [tiny_model, with_vision])
def test_packed_layers_are_reached_as_plain_ones_are(
    make: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    with quiet_transformers():
        make().save_pretrained(tmp_path)
    plain = load_base(tmp_path)
    packed = load_base(tmp_path, quantization=Quantization("nf4", nested=False, dtype=torch.float32))
    layers = [name for name, part in plain.named_modules() if isinstance(part, nn.Linear)]

    of_plain, of_packed = reach_of_text(plain), reach_of_text(packed)

    assert [of_packed.has_layer(name) for name in layers] == [of_plain.has_layer(name) for name in layers]
    assert not any(part._forward_hooks for part in packed.modules())
