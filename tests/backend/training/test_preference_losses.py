"""The preference losses are those of TRL 1.16, to the digit, and stay finite where answers are certain."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid

from backend.run.methods import OBJECTIVES
from backend.training.preference_losses import PAIR_LOSSES, Pairs, kto, log_odds_ratio, simpo

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "golden" / "preference_losses.json").read_text(encoding="utf-8")
)
"""Inputs and values in float64. TRL's own source gave the same to 1e-10."""
GIVEN, EXPECTED = GOLDEN["inputs"], GOLDEN["expected"]
BETA = GIVEN["beta"]


def _tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


PAIRS = Pairs(
    _tensor(GIVEN["chosen_logps"]),
    _tensor(GIVEN["rejected_logps"]),
    _tensor(GIVEN["ref_chosen_logps"]),
    _tensor(GIVEN["ref_rejected_logps"]),
    _tensor(GIVEN["chosen_tokens"]),
    _tensor(GIVEN["rejected_tokens"]),
)
UNREFERRED = replace(
    PAIRS, ref_chosen=torch.zeros_like(PAIRS.chosen), ref_rejected=torch.zeros_like(PAIRS.chosen)
)
SMOOTHING = {"robust": 0.1, "exo_pair": 1e-3}
NAMES = {"robust": "robust_0.1", "exo_pair": "exo_pair_1e-3"}


def test_every_loss_of_pairs_is_here() -> None:
    assert {*PAIR_LOSSES, "sft"} == set(OBJECTIVES["dpo"].losses)
    assert set(OBJECTIVES["cpo"].losses) <= set(PAIR_LOSSES)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_golden_values_of_pairs(name: str) -> None:
    found = PAIR_LOSSES[name](PAIRS, BETA, SMOOTHING.get(name, 0.0)).mean()
    assert float(found) == pytest.approx(EXPECTED[NAMES.get(name, name)], abs=1e-9)


def test_sigmoid_with_smoothing_is_cdpo() -> None:
    found = PAIR_LOSSES["sigmoid"](PAIRS, BETA, 0.1).mean()
    assert float(found) == pytest.approx(EXPECTED["cdpo_label_smoothing_0.1"], abs=1e-9)


def test_golden_values_without_a_reference() -> None:
    assert float(PAIR_LOSSES["sigmoid"](UNREFERRED, BETA, 0.0).mean()) == pytest.approx(
        EXPECTED["cpo_sigmoid_without_nll"], abs=1e-9
    )
    assert float(simpo(UNREFERRED, 2.5, 1.375).mean()) == pytest.approx(
        EXPECTED["simpo_beta2.5_gamma1.375"], abs=1e-9
    )
    assert float((-BETA * logsigmoid(log_odds_ratio(UNREFERRED))).mean()) == pytest.approx(
        EXPECTED["orpo_odds_term_beta0.1 (-beta*logsigmoid)"], abs=1e-9
    )


@pytest.mark.parametrize(("name", "kl"), [("kto", None), ("apo_zero_unpaired", 0.0)])
def test_golden_values_of_judged_answers(name: str, kl: float | None) -> None:
    judged = GIVEN["kto"]
    ratio = _tensor(judged["logps"]) - _tensor(judged["ref_logps"])
    others = float((_tensor(judged["kl_policy"]) - _tensor(judged["kl_ref"])).mean())
    point = max(0.0, others) if kl is None else kl
    found = kto(ratio, torch.tensor(judged["labels"]), BETA, point).mean()
    assert max(0.0, others) == pytest.approx(EXPECTED["kto_kl"], abs=1e-12)
    assert float(found) == pytest.approx(EXPECTED[name], abs=1e-9)


AT_START = {
    "sigmoid": math.log(2), "robust": math.log(2), "ipo": 25.0, "hinge": 1.0, "sigmoid_norm": math.log(2),
    "apo_zero": 1.0, "apo_down": 1.0, "exo_pair": None, "nca_pair": 2 * math.log(2), "bco_pair": 2 * math.log(2),
    "sppo_hard": 50.0,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, value in AT_START.items() if value is not None])
def test_a_model_that_is_its_own_reference_starts_at_a_constant(name: str) -> None:
    same = replace(PAIRS, ref_chosen=PAIRS.chosen, ref_rejected=PAIRS.rejected)
    found = PAIR_LOSSES[name](same, BETA, SMOOTHING.get(name, 0.0))
    torch.testing.assert_close(found, torch.full_like(found, AT_START[name]), rtol=1e-15, atol=0)


@given(margin=st.floats(-1e4, 1e4), beta=st.floats(1e-3, 10))
def test_swapping_the_answers_mirrors_the_loss(margin: float, beta: float) -> None:
    """-ls(x) + ls(-x) = -x: the loss of a pair and of the same pair swapped differ by beta times its margin."""
    one, zero = _tensor([1.0]), _tensor([0.0])
    pair = Pairs(_tensor([margin]), zero, zero, zero, one, one)
    swapped = replace(pair, chosen=pair.rejected, rejected=pair.chosen)
    forth, back = (float(PAIR_LOSSES["sigmoid"](each, beta, 0.0)) for each in (pair, swapped))
    assert back - forth == pytest.approx(beta * margin, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("certain", [0.0, -1e-12, -1e-7, -0.6931471, -0.6931472, -700.0, -1e5])
def test_orpo_stays_finite_with_answers_that_are_certain_or_impossible(certain: float) -> None:
    chosen = _tensor([certain, -1.0]).requires_grad_()
    rejected = _tensor([-1.0, certain]).requires_grad_()
    ones, zeros = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    odds = log_odds_ratio(Pairs(chosen, rejected, zeros, zeros, ones, ones))
    gradients = torch.autograd.grad(-logsigmoid(odds).sum(), [chosen, rejected])
    assert bool(torch.isfinite(odds).all())
    assert all(bool(torch.isfinite(each).all()) for each in gradients)


@given(st.floats(-30, -1e-6))
def test_orpos_odds_are_those_of_the_definition(logprob: float) -> None:
    one, zero = _tensor([1.0]), _tensor([0.0])
    found = float(log_odds_ratio(Pairs(_tensor([logprob]), _tensor([-math.log(2)]), zero, zero, one, one)))
    chance = math.exp(logprob)
    assert found == pytest.approx(math.log(chance) - math.log(-math.expm1(logprob)), rel=1e-6, abs=1e-6)
