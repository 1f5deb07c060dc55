"""The loss of GRPO: TRL's own loss, gradient and entropy on fixed completions, through every way to compute it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from backend.core.encoding.examples import Example
from backend.core.lanes import Lanes
from backend.run.config import TuningConfig
from backend.training.advantages import token_weights
from backend.training.batching import Packing
from backend.training.gradients import step_gradients
from backend.training.loss import logit_loss
from backend.training.policy import PolicyGradient, PolicyLoss
from tests.backend.core.rows import FULL, LORA, PLAN, lively_model, no_total, shake, start

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "grpo.json").read_text(encoding="utf-8"))
LENGTHS = np.array(GOLDEN["lengths"])


def _golden_weights(case: dict[str, Any]) -> np.ndarray:
    learned = np.ones(len(LENGTHS), dtype=bool)
    learned[GOLDEN["cut_off"] * case["masks"]] = False
    better = np.array(GOLDEN["advantages"]["group"])
    return token_weights(better, LENGTHS, learned, case["loss_type"], GOLDEN["longest"])


@pytest.mark.parametrize(
    "case", GOLDEN["losses"], ids=lambda case: f"{case['loss_type']}, masks {case['masks']}"
)
def test_loss_and_gradient_are_those_of_trl(case: dict[str, Any]) -> None:
    logits = torch.tensor(GOLDEN["logits"], dtype=torch.float64).requires_grad_()
    is_token = torch.arange(GOLDEN["longest"])[None] < torch.tensor(LENGTHS)[:, None]
    weights = torch.tensor(_golden_weights(case))[:, None].expand(is_token.shape)[is_token]
    policy = PolicyLoss(torch.tensor(GOLDEN["labels"])[is_token], weights, GOLDEN["temperature"])
    loss = logit_loss(logits[is_token], policy)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(case["loss"], abs=1e-12)
    torch.testing.assert_close(logits.grad, torch.tensor(case["gradient"], dtype=torch.float64))


def test_the_entropy_is_that_of_trl() -> None:
    logits = torch.tensor(GOLDEN["logits"], dtype=torch.float64)
    is_token = torch.arange(GOLDEN["longest"])[None] < torch.tensor(LENGTHS)[:, None]
    labels = torch.tensor(GOLDEN["labels"])[is_token]
    policy = PolicyLoss(labels, torch.ones(len(labels)), GOLDEN["temperature"])
    logit_loss(logits[is_token], policy)
    assert policy.entropy / len(labels) == pytest.approx(GOLDEN["losses"][0]["entropy"], rel=1e-6)


def _groups() -> list[Example]:
    """Three prompts with four answers each, of other lengths and weights."""
    generator, examples = np.random.default_rng(3), []
    for number in range(3):
        prompt = generator.integers(0, 512, 6)
        for _ in range(4):
            ids = np.concatenate([prompt, generator.integers(0, 512, generator.integers(1, 8))])
            weight = float(generator.normal())
            examples.append(Example(ids, np.arange(len(ids)) >= 6, f"row {number}", weight=weight))
    return examples


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_is_that_of_weighted_log_probabilities_one_answer_at_a_time(
    tuning: TuningConfig, temperature: float
) -> None:
    state, examples = start(lively_model(), tuning), _groups()
    shake(state)
    parameters = list(state.parameters.values())
    with Lanes(2) as pool:
        batches = Packing(40)(examples)
        found = step_gradients(
            state.forward, parameters, batches, PLAN, pool,
            objective=PolicyGradient(temperature), total=no_total, seed=0, step=1,
        )  # fmt: skip
    assert sum(len(batch.input_ids) for batch in batches) < sum(batch.tokens for batch in batches)
    packed = state.forward.causal.config._attn_implementation
    state.forward.causal.set_attn_implementation("eager")
    total, entropy, tokens = torch.zeros(()), 0.0, 0
    for example in examples:
        ids = torch.tensor(example.input_ids)
        logits = state.forward.causal(input_ids=ids[None]).logits[0, :-1].float() / temperature
        each = log_softmax(logits, -1)[5:]
        total = total - example.weight * each.gather(1, ids[6:, None]).sum()
        entropy -= float((each.exp() * each).sum().detach())
        tokens += len(each)
    expected = torch.autograd.grad(total, parameters)
    state.forward.causal.set_attn_implementation(packed)
    for one, other in zip(found.gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)
    assert PolicyGradient(temperature).measured(found.means)["entropy"] == pytest.approx(
        entropy / tokens, rel=1e-4
    )
    assert found.loss == pytest.approx(-sum(each.weight * each.trained.sum() for each in examples), rel=1e-5)
