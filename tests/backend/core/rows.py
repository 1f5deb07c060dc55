"""Rows, plans and started trainings for the tests of backend/core: all real, all tiny."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from backend.core.device import ComputePlan
from backend.core.encoding.examples import Example
from backend.core.packed_attention import MicroBatch
from backend.run.config import TrainingConfig, TuningConfig
from backend.training.forward import ForwardPass, choose_forward
from backend.training.loop import TrainState
from backend.training.optimizer import optimizer_tensors
from backend.training.tuning import make_trainable
from tests.tiny import Architecture, tiny_model

PLAN = ComputePlan("cpu", "float32", lanes=2, threads=1, matmul_precision="highest")
LORA = TuningConfig(lora_r=4, lora_alpha=8)
FULL = TuningConfig(method="full")


def no_total(*_: object) -> float:
    """Refuse to score examples, for objectives that need none."""
    raise AssertionError


def example(ids: Sequence[int], trained: Sequence[int] | None = None, row: str = "row 1") -> Example:
    """A row by hand; everything but its first token is trained unless ``trained`` says otherwise."""
    mask = np.array(trained if trained is not None else [0] + [1] * (len(ids) - 1), dtype=bool)
    return Example(np.array(ids, dtype=np.int64), mask, row)


def random_rows(lengths: Sequence[int], *, shared: int = 0, seed: int = 0, vocab: int = 512) -> list[Example]:
    """One row a length, the answer being its second half; the first ``shared`` tokens are common to all."""
    generator = np.random.default_rng(seed)
    beginning = generator.integers(0, vocab, shared)
    ids = [np.concatenate([beginning, generator.integers(0, vocab, n)])[:n] for n in lengths]
    return [
        Example(row, np.arange(len(row)) >= len(row) // 2, f"row {place}") for place, row in enumerate(ids, 1)
    ]


def random_pairs(count: int, *, seed: int = 0, vocab: int = 512) -> list[Example]:
    """``count`` pairs of answers to prompts of their own, the better one first; lengths differ."""
    generator = np.random.default_rng(seed)
    pairs = []
    for number in range(count):
        prompt = generator.integers(0, vocab, generator.integers(3, 9))
        for label in (True, False):
            answer = generator.integers(0, vocab, generator.integers(1, 12))
            ids = np.concatenate([prompt, answer])
            pairs.append(Example(ids, np.arange(len(ids)) >= len(prompt), f"row {number}", label))
    return pairs


def lively_model(architecture: Architecture = "llama", **overrides: Any) -> PreTrainedModel:
    """A tiny model whose logits differ enough that a wrong token, mask or position shows in its loss."""
    return tiny_model(architecture, **({"initializer_range": 0.3} | overrides))


def start(
    model: PreTrainedModel,
    tuning: TuningConfig = LORA,
    training: TrainingConfig | None = None,
    *,
    seed: int = 0,
) -> TrainState:
    """A training of ``model`` before its first step, as the trainer starts one."""
    return TrainState.start(
        choose_forward(make_trainable(model, tuning, seed=seed)), training or TrainingConfig()
    )


def shake(state: TrainState, *, seed: int = 1) -> None:
    """Move the trained weights off their start, so that no product is hidden by LoRA's zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in state.parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    """A copy of everything that training changes: weights and moments, by name."""
    moments = optimizer_tensors(state.optimizer, state.parameters)
    return {name: part.detach().clone() for name, part in (state.parameters | moments).items()}


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of named tensors are equal to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Watched(ForwardPass):
    """A real forward pass that lets a test look at, or break, what goes in."""

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        packed: bool,
        look: Callable[[MicroBatch], object],
        draws: bool = False,
    ) -> None:
        super().__init__(model, packed, draws=draws)
        object.__setattr__(self, "look", look)

    def loss_sum(self, batch: MicroBatch, token_loss: Any = None) -> torch.Tensor:
        self.look(batch)
        return super().loss_sum(batch, token_loss)
