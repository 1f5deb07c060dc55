"""Quantization-aware training computes with the weights of the Q4_0 file: backend/training/rounding.py."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from backend.core.gguf.convert import convert_gguf
from backend.core.model_loader import load_adapter, load_base, merge_adapter
from backend.core.q4_0 import round_q4_0
from backend.core.tokenizer import load_tokenizer
from backend.errors import ModelError
from backend.export.gguf_vocab import read_vocabulary
from backend.export.gguf_writer import write_gguf
from backend.export.trained import model_weights
from backend.run.config import TrainingConfig, TuningConfig
from backend.training.checkpoint import read_checkpoint, restore, save_checkpoint, save_result
from backend.training.loop import TrainState, train_steps
from backend.training.lora import lora_layers
from backend.training.rounding import Rounding
from tests.backend.core.rows import LORA, PLAN, random_rows, same_bits, shake, start, weights
from tests.tiny import tiny_model_folder

ROWS = random_rows([9, 14, 20, 7, 30, 12, 25, 18], shared=5, vocab=300)
SHORT = TrainingConfig(max_steps=4, per_device_train_batch_size=4, learning_rate=1e-2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_model_folder(tmp_path / "model", initializer_range=0.3, tie_word_embeddings=False)


def rounding_from(folder: Path, after: int, tuning: TuningConfig = LORA) -> TrainState:
    state = start(load_base(folder), tuning, SHORT)
    state.rounding = Rounding(state.forward, folder, after)
    return state


def train(state: TrainState) -> None:
    list(train_steps(state, ROWS, SHORT, PLAN, seed=0))


def base_weights(state: TrainState) -> dict[str, Tensor]:
    """The weights that the layers of the model compute with, by their names in the base."""
    return {name: layer.get_base_layer().weight.clone() for name, layer in lora_layers(state.forward.causal)}


@torch.no_grad()
def computed(layer: LoraLayer) -> Tensor:
    """The weight that a layer and its adapter make together."""
    return layer.get_base_layer().weight + layer.get_delta_weight("default")


def test_nothing_is_rounded_before_its_step(folder: Path) -> None:
    state = rounding_from(folder, after=2)
    before = base_weights(state)
    assert state.rounding is not None
    state.rounding.follow(1)
    assert same_bits(base_weights(state), before)
    state.rounding.follow(2)
    assert same_bits(base_weights(state), {name: round_q4_0(part) for name, part in before.items()})


def test_the_gradient_passes_through_the_rounding(folder: Path) -> None:
    state = rounding_from(folder, after=0)
    shake(state)
    assert state.rounding is not None
    state.rounding.follow(0)
    for name, layer in lora_layers(state.forward.causal):
        exact = load_base(folder).get_submodule(name).weight
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        x = torch.randn(5, exact.shape[1], requires_grad=True)
        updated = exact.detach() + layer.scaling["default"] * b @ a
        rounded = updated + (round_q4_0(updated.detach()) - updated).detach()
        wanted = torch.autograd.grad((x @ rounded.T).tanh().sum(), [x, a, b])
        found = torch.autograd.grad(layer(x).tanh().sum(), [x, a, b])
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_an_export_has_the_weights_of_the_last_step(folder: Path, tmp_path: Path) -> None:
    state, tokenizer = rounding_from(folder, after=2), load_tokenizer(folder)
    train(state)
    result = save_result(state.forward.model, tokenizer, tmp_path / "adapter")
    merged = merge_adapter(load_adapter(load_base(folder), result))
    words = read_vocabulary(tokenizer, folder, rows=merged.config.vocab_size, eos_token_ids=None)
    file = tmp_path / "x.gguf"
    write_gguf(file, merged.config, model_weights(merged), words, quantization="Q4_0", name="tiny")
    convert_gguf(file, tmp_path / "back")
    stored, trained = load_base(tmp_path / "back").state_dict(), state.forward.causal.state_dict()
    names = dict(lora_layers(state.forward.causal))
    for name, exported in stored.items():
        layer = names.get(name.removesuffix(".weight"))
        own = trained[name] if layer is None else computed(layer)
        off = float((exported - own).norm() / own.norm())
        assert off < (0.02 if name == "lm_head.weight" else 1e-6), (
            name
        )  # the head is in Q8_0 and not rounded before


def test_a_resumed_run_rounds_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    whole, first, second = (rounding_from(folder, after=1) for _ in range(3))
    train(whole)
    for _ in islice(train_steps(first, ROWS, SHORT, PLAN, seed=0), 2):
        pass
    restore(read_checkpoint(save_checkpoint(tmp_path, first, {})), second)
    train(second)
    assert same_bits(weights(second), weights(whole))
    assert same_bits(base_weights(second), base_weights(whole))


def test_layers_without_an_adapter_are_rounded_too(folder: Path) -> None:
    state = rounding_from(folder, after=0, tuning=LORA.model_copy(update={"exclude_modules": ["down_proj"]}))
    train(state)
    layer = state.forward.causal.get_submodule("model.layers.0.mlp.down_proj")
    assert torch.equal(layer.weight, round_q4_0(load_base(folder).model.layers[0].mlp.down_proj.weight))


def test_an_adapter_that_is_more_than_a_product_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="qat_scheme") as caught:
        rounding_from(folder, after=0, tuning=LORA.model_copy(update={"use_dora": True}))
    assert caught.value.code == "unsupported-adapter"
