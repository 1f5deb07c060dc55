from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from backend.core.engine.decoder_layer import Linear, Norms, Place, run_layer
from backend.run.config import TuningConfig
from backend.training.batching import pack
from backend.training.forward import ForwardPass
from backend.training.loop import TrainState
from backend.training.recompute import recompute_layers
from tests.backend.core.rows import FULL, LORA, lively_model, random_rows, shake, start
from tests.tiny import Architecture

(BATCH,) = pack(random_rows([9, 14, 20, 7, 30], shared=5), budget=10_000)


def _gradients(state: TrainState) -> list[Tensor]:
    loss = state.forward.loss_sum(BATCH)
    return list(
        torch.autograd.grad(loss, list(state.parameters.values()), allow_unused=True, materialize_grads=True)
    )


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_computed_again_the_gradient_has_the_same_bits(
    architecture: Architecture, tuning: TuningConfig
) -> None:
    state = start(lively_model(architecture), tuning)
    shake(state)
    plain = _gradients(state)
    recompute_layers(state.forward.model)

    assert all(torch.equal(a, b) for a, b in zip(_gradients(state), plain, strict=True))


def test_less_is_kept_than_by_the_layers_of_transformers() -> None:
    state = start(lively_model(num_hidden_layers=4), LORA)
    shake(state)
    weights = {part.data_ptr() for part in state.forward.model.parameters()}

    def kept(forward: ForwardPass) -> int:
        found: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            found[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            forward.loss_sum(BATCH)
        return sum(size for place, size in found.items() if place not in weights)

    theirs = replace(state.forward, layers="")
    assert kept(state.forward) < 0.6 * kept(theirs)


def test_gradients_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).mul_(0.5)

    (batch,) = pack(random_rows([5, 4], shared=2), budget=100)
    tokens, width = len(batch.input_ids), 4
    angle = batch.position_ids[:, None] * torch.tensor([1.0, 0.3])
    place = Place(batch, angle.cos(), angle.sin(), width, 0.5, 1e-5)
    shapes = [(8, 6), (4, 6), (4, 6), (6, 8), (10, 6), (10, 6), (6, 10)]
    linears = [
        Linear(random(*shape), random(shape[0]), random(2, shape[1]), random(shape[0], 2), 0.7)
        for shape in shapes
    ]
    norms = Norms(*(random(size).add_(1.0) for size in (6, 6, width, width)))
    x, target = random(tokens, 6), random(tokens, 6)
    trained = [x, *norms, *(part for linear in linears for part in linear[:4])]
    for part in trained:
        part.requires_grad_()

    def loss() -> Tensor:
        return (run_layer(x, place, norms, linears) * target).sum()

    gradients = torch.autograd.grad(loss(), trained)
    for part, gradient in zip(trained, gradients, strict=True):
        direction = random(*part.shape)
        with torch.no_grad():
            ends = []
            for step in (1e-2, -2e-2):
                part.add_(direction, alpha=step)
                ends.append(float(loss()))
            part.add_(direction, alpha=1e-2)
        slope = (ends[0] - ends[1]) / 2e-2
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.02, abs=0.05)
