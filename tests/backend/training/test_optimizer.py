"""AdamW as the paper has it, its state as named tensors, and a learning rate that is a function of the step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from backend.run.config import TrainingConfig
from backend.training.optimizer import (
    build_optimizer,
    gradient_norm,
    load_optimizer_tensors,
    optimizer_tensors,
)

KINDS = ("linear", "cosine", "constant")


def _parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (3, 4), "bias": (4,), "scale": ()}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def _step(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], *, rate: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    for part in parameters.values():
        part.grad = torch.randn(part.shape, generator=generator)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def test_steps_are_those_of_adamw_with_decay_on_matrices_alone() -> None:
    training = TrainingConfig(weight_decay=0.3, adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-3)
    ours, theirs = _parameters(), _parameters()
    optimizer = build_optimizer(ours, training)
    options = {"betas": (0.8, 0.95), "eps": 1e-3, "lr": 0.1}
    reference = torch.optim.AdamW(
        [
            {"params": [theirs["weight"]], "weight_decay": 0.3},
            {"params": [theirs["bias"], theirs["scale"]], "weight_decay": 0.0},
        ],
        **options,
    )

    for seed in range(4):
        _step(optimizer, ours, rate=0.1, seed=seed)
        _step(reference, theirs, rate=0.1, seed=seed)

    for name, part in ours.items():
        torch.testing.assert_close(part, theirs[name], rtol=1e-5, atol=1e-6)


def test_without_a_gradient_only_matrices_shrink() -> None:
    parameters = _parameters()
    before = {name: part.detach().clone() for name, part in parameters.items()}
    optimizer = build_optimizer(parameters, TrainingConfig(weight_decay=0.5, learning_rate=0.1))

    for part in parameters.values():
        part.grad = torch.zeros_like(part)
    optimizer.step()

    torch.testing.assert_close(parameters["weight"], before["weight"] * 0.95)
    assert torch.equal(parameters["bias"], before["bias"])
    assert torch.equal(parameters["scale"], before["scale"])


@pytest.mark.parametrize("names", [["weight"], ["bias"]])
def test_matrices_alone_and_vectors_alone_are_no_problem(names: list[str]) -> None:
    parameters = {name: _parameters()[name] for name in names}

    assert len(build_optimizer(parameters, TrainingConfig()).param_groups) == 1


def test_the_state_is_whole_before_the_first_step() -> None:
    parameters = _parameters()

    tensors = optimizer_tensors(build_optimizer(parameters, TrainingConfig()), parameters)

    assert tensors.keys() == {
        f"{name}.{key}" for name in parameters for key in ("exp_avg", "exp_avg_sq", "step")
    }
    assert not any(tensor.any() for tensor in tensors.values())


def test_a_state_put_back_goes_on_to_the_same_bits() -> None:
    training = TrainingConfig(weight_decay=0.1)
    straight = _parameters()
    optimizer = build_optimizer(straight, training)
    for seed in range(3):
        _step(optimizer, straight, rate=0.05, seed=seed)
    saved = {name: value.clone() for name, value in optimizer_tensors(optimizer, straight).items()}

    resumed = {name: nn.Parameter(part.detach().clone()) for name, part in straight.items()}
    fresh = build_optimizer(resumed, training)
    load_optimizer_tensors(fresh, resumed, saved)
    for seed in range(3, 6):
        _step(optimizer, straight, rate=0.05, seed=seed)
        _step(fresh, resumed, rate=0.05, seed=seed)

    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    ours, theirs = optimizer_tensors(optimizer, straight), optimizer_tensors(fresh, resumed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_named_tensors_are_the_state_itself_and_no_copies() -> None:
    parameters = _parameters()
    optimizer = build_optimizer(parameters, TrainingConfig())

    tensors = optimizer_tensors(optimizer, parameters)
    _step(optimizer, parameters, rate=0.1, seed=0)

    assert tensors["weight.step"] == 1
    assert tensors["weight.exp_avg"].any()


@pytest.mark.parametrize(
    "change", [lambda t: t.pop("bias.exp_avg"), lambda t: t.update({"more.step": t["bias.step"]})]
)
def test_a_state_of_other_parameters_is_refused_untouched(change: object) -> None:
    parameters = _parameters()
    optimizer = build_optimizer(parameters, TrainingConfig())
    foreign = {
        name: torch.ones_like(value) for name, value in optimizer_tensors(optimizer, parameters).items()
    }
    change(foreign)

    with pytest.raises(KeyError, match="optimizer state differs"):
        load_optimizer_tensors(optimizer, parameters, foreign)

    assert not any(value.any() for value in optimizer_tensors(optimizer, parameters).values())


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([[3.0, 4.0]], 5.0),
        ([[3.0], [4.0]], 5.0),
        ([[0.0]], 0.0),
        ([[1.0, 2.0], [2.0]], 3.0),
        ([[math.inf], [1.0]], math.inf),
    ],
)
def test_the_norm_is_that_of_all_gradients_as_one_vector(
    gradients: list[list[float]], expected: float
) -> None:
    assert gradient_norm([torch.tensor(values) for values in gradients]) == expected


def test_the_norm_of_no_number_is_no_number() -> None:
    assert math.isnan(gradient_norm([torch.tensor([1.0]), torch.tensor([math.nan])]))
