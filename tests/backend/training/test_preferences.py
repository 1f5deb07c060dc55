"""A preference step has the loss and gradient of plain transformers and peft with an explicit reference model."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from backend.core.encoding.examples import Example
from backend.core.lanes import Lanes
from backend.run.config import ObjectiveConfig
from backend.training.batching import Packing, pack
from backend.training.distributed import ALONE
from backend.training.gradients import StepGradients, step_gradients
from backend.training.loop import TrainState
from backend.training.objective import Supervised
from backend.training.preferences import objective_of, places
from backend.training.reference import Mismatched, Reference, answer_of, logprobs_of
from backend.training.scoring import total_over
from tests.backend.core.rows import FULL, LORA, PLAN, lively_model, random_pairs, shake, start

PAIRS = random_pairs(5)
ORDER = [list(range(len(PAIRS)))]


def _plain_logprobs(model: nn.Module, rows: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """(summed log-probability, tokens) of each answer, float64, by one padded pass as everybody computes them."""
    width = max(len(row.input_ids) for row in rows)
    ids, mask = (
        torch.zeros(len(rows), width, dtype=torch.int64),
        torch.zeros(len(rows), width, dtype=torch.int64),
    )
    trained = torch.zeros(len(rows), width, dtype=torch.bool)
    for line, row in enumerate(rows):
        length = len(row.input_ids)
        ids[line, :length], mask[line, :length] = torch.tensor(row.input_ids), 1
        trained[line, :length] = torch.tensor(row.trained)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float().log_softmax(-1)
    each = logits.gather(-1, ids[:, 1:, None])[..., 0].masked_fill(~trained[:, 1:], 0.0)
    return each.double().sum(-1), trained[:, 1:].sum(-1).double()


def _plain_loss(config: ObjectiveConfig, model: nn.Module, reference: nn.Module) -> Tensor:
    """The loss of all ``PAIRS`` by the formulas of the papers, with a second model as the reference."""
    chosen, rejected = PAIRS[0::2], PAIRS[1::2]
    (c, n), (r, m) = _plain_logprobs(model, chosen), _plain_logprobs(model, rejected)
    with torch.no_grad():
        rc, rr = _plain_logprobs(reference, chosen)[0], _plain_logprobs(reference, rejected)[0]
    beta, nll = config.beta_or_default, -c.sum() / n.sum()
    if config.method == "orpo":
        odds = (c / n - r / m) - (torch.log1p(-torch.exp(c / n)) - torch.log1p(-torch.exp(r / m)))
        return nll - beta * logsigmoid(odds).mean()
    if config.method == "simpo":
        return -logsigmoid(beta * (c / n - r / m) - config.simpo_gamma).mean()
    if config.method == "cpo":
        return -logsigmoid(beta * (c - r)).mean() + config.cpo_alpha * nll
    if config.method == "kto":
        return _plain_kto(config, model, reference)
    return -logsigmoid(beta * (c - rc - r + rr)).mean() + config.losses.get("sft", 0.0) * nll


def _plain_kto(config: ObjectiveConfig, model: nn.Module, reference: nn.Module) -> Tensor:
    swap = Mismatched.of(PAIRS, ORDER)
    others = [swap(row) for row in PAIRS]
    with torch.no_grad():
        apart = _plain_logprobs(model, others)[0] - _plain_logprobs(reference, others)[0]
        base = _plain_logprobs(reference, PAIRS)[0]
    ratio = _plain_logprobs(model, PAIRS)[0] - base
    kl = apart.mean().clamp(min=0)
    signs = torch.tensor([1.0 if row.label else -1.0 for row in PAIRS])
    weights = torch.tensor(
        [config.desirable_weight if row.label else config.undesirable_weight for row in PAIRS]
    )
    return (weights * (1 - torch.sigmoid(signs * config.beta_or_default * (ratio - kl)))).mean()


def _reference(state: TrainState, packing: Packing) -> Reference:
    swap = Mismatched.of(PAIRS, ORDER)
    own = logprobs_of(state.forward, [PAIRS], packing, PLAN, ALONE, group=2)
    others = logprobs_of(state.forward, [[swap(row) for row in PAIRS]], packing, PLAN, ALONE)
    return Reference(own, others, swap)


def _step(
    config: ObjectiveConfig, state: TrainState, reference: Reference | None, budget: int
) -> StepGradients:
    objective, packing = objective_of(config, reference), Packing(budget)
    with Lanes(2) as pool:
        return step_gradients(
            state.forward, list(state.parameters.values()), packing(PAIRS, objective.group), PLAN, pool,
            objective=objective, total=total_over(state.forward, packing, PLAN, pool, ALONE), seed=0, step=1,
        )  # fmt: skip


CASES: list[dict[str, Any]] = [
    {"method": "dpo"},
    {"method": "dpo", "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3], "beta": 0.4},
    {"method": "kto", "undesirable_weight": 1.3},
    {"method": "orpo", "beta": 0.5},
    {"method": "simpo"},
    {"method": "cpo", "cpo_alpha": 0.7},
]


@pytest.mark.parametrize(
    "settings", CASES, ids=lambda case: "-".join([case["method"], *case.get("loss_type", [])])
)
@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("budget", [20, 10_000])
def test_loss_and_gradient_are_those_of_padded_passes_beside_a_second_model(
    settings: dict[str, Any], tuning: Any, budget: int
) -> None:
    config = ObjectiveConfig(**settings)
    state = start(lively_model(), tuning)
    shake(state)
    reference = _reference(state, Packing(10_000))
    second = copy.deepcopy(state.forward.model)
    shake(state)  # the trained model is no longer its reference

    found = _step(config, state, reference, budget)
    state.forward.causal.set_attn_implementation("sdpa")
    second.set_attn_implementation(
        "sdpa"
    ) if tuning is FULL else second.get_base_model().set_attn_implementation("sdpa")
    loss = _plain_loss(config, state.forward.model, second)
    wanted = torch.autograd.grad(
        loss, list(state.parameters.values()), allow_unused=True, materialize_grads=True
    )

    assert found.loss == pytest.approx(float(loss.detach()), rel=3e-5)
    difference = math.sqrt(
        sum(float((a - b).double().square().sum()) for a, b in zip(found.gradients, wanted, strict=True))
    )
    assert difference <= 3e-5 * math.sqrt(sum(float(b.double().square().sum()) for b in wanted))


@pytest.mark.parametrize("settings", CASES, ids=lambda case: case["method"])
def test_every_measurement_is_there(settings: dict[str, Any]) -> None:
    config = ObjectiveConfig(**settings)
    state = start(lively_model())
    packing = Packing(10_000)
    objective = objective_of(config, _reference(state, packing))
    found = _step(config, state, _reference(state, packing), 10_000)
    measured = objective.measured(found.means)
    assert set(objective.names) <= set(measured)
    assert 0.0 <= measured["mean_token_accuracy"] <= 1.0 <= measured["entropy"]


@pytest.mark.parametrize("settings", [case for case in CASES if case["method"] in {"dpo", "kto"}])
def test_rewards_are_zero_at_the_start_bit_for_bit(settings: dict[str, Any]) -> None:
    config, state, packing = ObjectiveConfig(**settings), start(lively_model()), Packing(10_000)
    reference = _reference(state, packing)
    found = _step(config, state, reference, 10_000)
    measured = objective_of(config, reference).measured(found.means)
    assert {name: value for name, value in measured.items() if name.startswith("rewards/")} == {
        name: 0.0 for name in measured if name.startswith("rewards/")
    }
    assert measured.get("kl", 0.0) == 0.0


def test_the_measurements_are_means_over_pairs() -> None:
    state = start(lively_model())
    config, packing = ObjectiveConfig(method="dpo"), Packing(10_000)
    reference = _reference(state, packing)
    shake(state)
    means = {budget: _step(config, state, reference, budget).means for budget in (20, 10_000)}
    state.forward.causal.set_attn_implementation("sdpa")
    with torch.no_grad():
        logps = _plain_logprobs(state.forward.model, PAIRS)[0]
    ratios = logps - torch.tensor([reference.logprobs[answer_of(row)] for row in PAIRS], dtype=torch.float64)
    expected = {
        "rewards/chosen": 0.1 * float(ratios[0::2].mean()),
        "rewards/rejected": 0.1 * float(ratios[1::2].mean()),
        "rewards/margins": 0.1 * float((ratios[0::2] - ratios[1::2]).mean()),
        "rewards/accuracies": float((ratios[0::2] > ratios[1::2]).double().mean()),
        "logps/chosen": float(logps[0::2].mean()),
        "logps/rejected": float(logps[1::2].mean()),
    }
    for found in means.values():
        measured = objective_of(config, reference).measured(found)
        assert {name: measured[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_kto_leaves_a_side_out_that_a_step_does_not_have() -> None:
    state = start(lively_model())
    reference = _reference(state, Packing(10_000))
    objective = objective_of(ObjectiveConfig(method="kto"), reference)
    measured = objective.measured({"rewards/chosen": (1.0, 2.0), "rewards/rejected": (0.0, 0.0)})
    assert measured == {"rewards/chosen": 0.5}


def test_pairs_stand_side_by_side_in_either_order() -> None:
    (batch,) = pack(PAIRS, budget=10_000, group=2)
    chosen, rejected = places(batch)
    assert [batch.examples[place].label for place in chosen] == [True] * 5
    assert [batch.examples[place].label for place in rejected] == [False] * 5
    assert [batch.examples[place].row for place in chosen] == [
        batch.examples[place].row for place in rejected
    ]


@pytest.mark.parametrize("method", ["sft", "cpt"])
def test_answers_and_texts_are_learned_as_they_are(method: str) -> None:
    assert isinstance(objective_of(ObjectiveConfig.model_validate({"method": method})), Supervised)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_method_that_compares_needs_a_reference(method: str) -> None:
    with pytest.raises(ValueError, match="reference"):
        objective_of(ObjectiveConfig.model_validate({"method": method}))
