"""One record for each way to tune: backend/run/methods.py."""

from __future__ import annotations

from typing import get_args

import pytest

from backend.run.config import LossName, ObjectiveConfig, TuningConfig
from backend.run.files import RunFiles
from backend.run.methods import OBJECTIVES, OPTIMS, TUNINGS, default_learning_rate, is_target, methods_for


def test_every_choice_has_its_record() -> None:
    assert set(TUNINGS) == set(get_args(TuningConfig.model_fields["method"].annotation))
    assert set(OBJECTIVES) == set(get_args(ObjectiveConfig.model_fields["method"].annotation))


def test_every_loss_belongs_to_an_objective() -> None:
    losses = {loss for facts in OBJECTIVES.values() for loss in facts.losses}
    assert losses == set(get_args(LossName))


def test_what_an_objective_learns_from() -> None:
    preference = [name for name, facts in OBJECTIVES.items() if facts.is_preference]
    pairwise = [name for name, facts in OBJECTIVES.items() if facts.is_pairwise]
    referring = [name for name, facts in OBJECTIVES.items() if facts.needs_reference]
    assert preference == ["dpo", "kto", "orpo", "cpo", "simpo"]
    assert pairwise == ["dpo", "orpo", "cpo", "simpo"]
    assert referring == ["dpo", "kto"]


@pytest.mark.parametrize(
    ("kind", "methods"),
    [
        ("preference", ["dpo", "kto", "orpo", "cpo", "simpo"]),
        ("judged", ["kto"]),
        ("chat", ["sft", "grpo"]),
        ("text", ["cpt", "sft"]),
        ("tokens", ["sft", "cpt"]),
    ],
)
def test_rows_have_their_methods_with_the_usual_one_first(kind: str, methods: list[str]) -> None:
    assert methods_for(kind) == methods


@pytest.mark.parametrize("method", TUNINGS)
def test_a_result_lies_in_a_part_of_the_run(method: str) -> None:
    assert TUNINGS[method].result in {RunFiles.adapter.name, RunFiles.model.name}


def test_what_is_trained() -> None:
    assert [TuningConfig(method=method).trains_all for method in ("lora", "full")] == [False, True]


def test_an_unknown_method_has_no_rate() -> None:
    with pytest.raises(KeyError):
        default_learning_rate("telepathy", 576)


def test_the_usual_rate_is_the_measured_one_and_falls_with_width() -> None:
    assert default_learning_rate("lora", 576) == 2e-3
    assert default_learning_rate("full", 576) == 2e-4
    for method in ("lora", "full"):
        rates = [default_learning_rate(method, width) for width in (64, 576, 1024, 4096, 16384)]
        assert rates == sorted(rates, reverse=True)
        assert len(set(rates)) == len(rates)


@pytest.mark.parametrize("optim", OPTIMS)
def test_each_optimizer_has_the_rate_of_its_kind(optim: str) -> None:
    assert default_learning_rate("lora", 576, optim=optim) == pytest.approx(2e-3 * OPTIMS[optim].rate)


def test_an_unknown_optimizer_has_no_rate() -> None:
    with pytest.raises(KeyError):
        default_learning_rate("lora", 576, optim="hope")


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (["q_proj"], True),
        (["layers.0.attn.q_proj"], True),
        (["proj"], False),
        ([], False),
        (r".*\.q_proj", True),
        ("q_proj", False),
        ("all-linear", False),
        ("(", False),
    ],
)
def test_targets_match_the_end_of_a_name_or_a_pattern_the_whole(
    targets: str | list[str], found: bool
) -> None:
    assert is_target("layers.0.attn.q_proj", targets) is found
