"""Packed weights compute what their unpacked values do, and go on doing so after an evaluation."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from transformers import PreTrainedModel

from backend.core.model_loader import load_base
from backend.core.quantized import (
    Quantization,
    compute_exactly,
    dense_weight,
    is_packed,
    round_weights,
)
from backend.run.config import ModelConfig
from backend.training.tuning import make_trainable, trainable_parameters
from tests.backend.core.rows import LORA
from tests.tiny import ARCHITECTURES, Architecture, tiny_model, tiny_model_folder

bitsandbytes = pytest.importorskip("bitsandbytes")

# peft 0.21 asks transformers 5.23 for a name that it has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

IDS = torch.arange(12).reshape(1, 12)
KINDS = [
    Quantization("nf4", nested=True, dtype=torch.float32),
    Quantization("nf4", nested=False, dtype=torch.bfloat16),
    Quantization("fp4", nested=False, dtype=torch.float32),
    Quantization("int8", nested=False, dtype=torch.float32),
    Quantization("int8", nested=False, dtype=torch.bfloat16),
]


def packed_layers(model: nn.Module) -> dict[str, Any]:
    return {name: layer for name, layer in model.named_modules() if is_packed(layer)}


def packed(folder: Path, stored: Quantization = KINDS[0]) -> PreTrainedModel:
    return load_base(folder, dtype=stored.dtype, quantization=stored)


@pytest.mark.parametrize(
    ("settings", "kind", "nested", "words"),
    [
        ({"load_in_4bit": True}, "nf4", False, "4 bits (nf4)"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "fp4", False, "4 bits (fp4)"),
        ({"load_in_4bit": True, "use_bnb_nested_quant": True}, "nf4", True, "4 bits (nf4), nested"),
        ({"load_in_8bit": True}, "int8", False, "8 bits (int8)"),
    ],
)
def test_a_configuration_says_how_weights_are_stored(
    settings: dict[str, Any], kind: str, nested: bool, words: str
) -> None:
    found = Quantization.of(ModelConfig(**settings), torch.bfloat16)
    assert found == Quantization(kind, nested, torch.bfloat16)
    assert found.words == words


def test_by_default_weights_are_plain() -> None:
    assert Quantization.of(ModelConfig(), torch.float32) is None


@pytest.mark.parametrize("stored", KINDS, ids=str)
def test_a_packed_layer_multiplies_as_its_unpacked_weight_does(
    tiny_folder: Path, stored: Quantization
) -> None:
    layer = packed(tiny_folder, stored).get_submodule("model.layers.0.mlp.up_proj")
    assert isinstance(layer, nn.Linear)
    x = torch.randn(2, 5, layer.in_features).to(stored.dtype)
    ours, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = dequantize_module_weight(copy.copy(layer)).to(stored.dtype)

    y, expected = layer(ours), plain @ weight.t()
    y.square().sum().backward()
    expected.square().sum().backward()

    close = {"rtol": 0, "atol": 0} if stored.dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(y, expected, **close)
    torch.testing.assert_close(ours.grad, plain.grad, **close)


def test_only_linear_layers_are_packed(tiny_folder: Path) -> None:
    model = packed(tiny_folder)
    assert {name.rpartition(".")[2] for name in packed_layers(model)} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    assert not is_packed(model.get_input_embeddings())
    assert not is_packed(model.get_output_embeddings())


def test_a_plain_layer_gives_its_own_weight() -> None:
    layer = nn.Linear(3, 2)
    assert dense_weight(layer, torch.bfloat16) is layer.weight


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("stored", KINDS, ids=str)
def test_rounded_weights_are_those_that_transformers_packs(
    tmp_path: Path, architecture: Architecture, stored: Quantization
) -> None:
    folder = tiny_model_folder(tmp_path / "model", architecture=architecture)
    model, plain = packed(folder, stored), load_base(folder)

    round_weights(plain, stored)

    for name, layer in packed_layers(model).items():
        unpacked = dense_weight(layer, stored.dtype).float()
        rounded = plain.get_parameter(f"{name}.weight")
        assert torch.equal(unpacked, rounded.t().clone() if architecture == "gpt2" else rounded)
    other = {name for name, _ in plain.named_parameters()} - {
        f"{name}.weight" for name in packed_layers(model)
    }
    for name in other:
        torch.testing.assert_close(
            model.get_parameter(name).float(), plain.get_parameter(name), rtol=0.01, atol=0.01
        )


class TestAfterAnEvaluation:
    """bitsandbytes' own layer, in eval mode without gradients, silently stops to pass gradients on for good."""

    def gradients(self, model: nn.Module) -> dict[str, Tensor]:
        model.train()
        model.zero_grad()
        model(IDS).logits.square().sum().backward()
        return {
            name: part.grad.clone()
            for name, part in trainable_parameters(model).items()
            if part.grad is not None
        }

    @pytest.mark.parametrize("stored", KINDS, ids=str)
    @pytest.mark.parametrize(
        "settings", [{}, {"lora_dropout": 1e-9}, {"use_dora": True}], ids=["fused", "by peft", "dora"]
    )
    def test_every_gradient_is_as_before(
        self, tiny_folder: Path, stored: Quantization, settings: dict[str, Any]
    ) -> None:
        model = make_trainable(packed(tiny_folder, stored), LORA.model_copy(update=settings), seed=0)
        for name, part in trainable_parameters(model).items():
            part.data += 0.1 * ("lora_B" in name)
        before = self.gradients(model)
        model.eval()
        with torch.no_grad():
            model(IDS)
        after = self.gradients(model)

        assert len(before) == len(trainable_parameters(model)) == len(after)
        assert all(float(gradient.abs().max()) > 0 for gradient in before.values())
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_its_own_computation_is_never_used(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = packed(tiny_folder)
        monkeypatch.delattr(bitsandbytes.nn.Linear4bit, "forward")
        monkeypatch.setattr(bitsandbytes.nn.Linear4bit, "__call__", nn.Module.__call__, raising=False)
        with torch.no_grad():
            assert model(IDS).logits.isfinite().all()

    def test_the_attribute_that_allows_it_is_cleared_in_every_layer(self, tiny_folder: Path) -> None:
        layers = packed_layers(packed(tiny_folder)).values()
        assert len(layers) == 14
        assert all(layer.support_avx512bf16_for_cpu is False for layer in layers)


def test_threads_side_by_side_compute_the_same(tiny_folder: Path) -> None:
    model = make_trainable(packed(tiny_folder), LORA, seed=0)

    def gradient(_: int) -> Tensor:
        embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
        (found,) = torch.autograd.grad(model(inputs_embeds=embedded).logits.square().sum(), embedded)
        return found

    first = gradient(0)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(first, other) for other in pool.map(gradient, range(12)))


def test_a_model_without_packed_layers_is_left_alone() -> None:
    model = tiny_model()
    before = model(IDS).logits
    compute_exactly(model, torch.bfloat16)
    assert torch.equal(model(IDS).logits, before)
