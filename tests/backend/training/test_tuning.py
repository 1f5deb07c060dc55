"""What is trained and what is frozen, and that the start depends on the seed alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, MambaConfig, MixtralConfig, MixtralForCausalLM

from backend.core.lanes import Lanes
from backend.errors import ModelError
from backend.run.config import TuningConfig
from backend.training.tuning import METHODS, check_tuning, make_trainable, trainable_parameters, uses_dropout
from tests.backend.core.odd_models import jittering_router, router_bias, with_vision
from tests.backend.core.rows import FULL, LORA
from tests.tiny import tiny_model

LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def _adapted_layers(model: nn.Module) -> set[str]:
    return {name.split(".lora_")[0].rpartition(".")[2] for name in trainable_parameters(model)}


def test_lora_trains_adapters_beside_every_linear_layer_and_nothing_else() -> None:
    model = make_trainable(tiny_model(), LORA, seed=0)

    learned = trainable_parameters(model)
    assert isinstance(model, PeftModel)
    assert all(".lora_A." in name or ".lora_B." in name for name in learned)
    assert _adapted_layers(model) == LINEAR
    assert len(learned) == 2 * len(LINEAR) * 2


def test_full_trains_every_weight_and_adds_none() -> None:
    base = tiny_model().requires_grad_(requires_grad=False)
    count = sum(part.numel() for part in base.parameters())

    model = make_trainable(base, FULL, seed=0)

    assert model is base
    assert sum(part.numel() for part in trainable_parameters(model).values()) == count
    assert sum(part.numel() for part in model.parameters()) == count


def test_adapted_experts_learn_side_by_side_what_they_learn_one_after_the_other() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = MixtralConfig(**sizes, num_key_value_heads=2, vocab_size=64, num_local_experts=2)
    model = make_trainable(MixtralForCausalLM(config), LORA, seed=0)
    learned = trainable_parameters(model)
    experts = [name for name in learned if ".experts." in name]

    def gradients(seed: int) -> list[torch.Tensor]:
        ids = torch.randint(0, 64, (1, 9), generator=torch.Generator().manual_seed(seed))
        return list(torch.autograd.grad(model(ids, labels=ids).loss, list(learned.values())))

    alone = [gradients(seed) for seed in range(16)]
    with Lanes(4) as lanes:
        together = list(lanes.map(gradients, range(16)))

    assert experts
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(("rank", "alpha"), [(1, 1), (4, 8), (16, 32)])
def test_rank_and_scale_are_those_asked_for(rank: int, alpha: int) -> None:
    model = make_trainable(tiny_model(), TuningConfig(lora_r=rank, lora_alpha=alpha), seed=0)

    layer = model.get_base_model().base_model.layers[0].self_attn.q_proj
    assert layer.lora_A["default"].weight.shape == (rank, 32)
    assert layer.lora_B["default"].weight.shape == (32, rank)
    assert layer.scaling["default"] == alpha / rank


def test_adapters_are_computed_fused() -> None:
    model = make_trainable(tiny_model(), LORA, seed=0)

    out = model.get_base_model().base_model.layers[0].self_attn.q_proj(torch.ones(1, 2, 32))

    assert "FusedLora" in out.grad_fn.name()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("all-linear", LINEAR),
        (["q_proj"], {"q_proj"}),
        (["q_proj", "v_proj"], {"q_proj", "v_proj"}),
        (r".*layers\.0\..*o_proj", {"o_proj"}),
    ],
)
def test_the_modules_asked_for_get_an_adapter(target: str | list[str], expected: set[str]) -> None:
    model = make_trainable(tiny_model(), TuningConfig(lora_target_modules=target), seed=0)

    assert _adapted_layers(model) == expected


@pytest.mark.parametrize("target", ["nonsense", ["q_project"], [], "q_proj[", "(", "*"])
def test_target_modules_that_fit_nothing_are_refused_with_the_names_that_would(
    target: str | list[str],
) -> None:
    with pytest.raises(ModelError, match="lora_target_modules") as caught:
        make_trainable(tiny_model(), TuningConfig(lora_target_modules=target), seed=0)

    assert caught.value.code == "no-target-modules"
    assert all(name in caught.value.remedy for name in LINEAR | {"all-linear"})


def test_modules_that_peft_refuses_are_not_among_the_names_that_would_do() -> None:
    """all-linear is refused for Mamba, and so is out_proj."""
    mamba = AutoModelForCausalLM.from_config(
        MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)
    )
    with pytest.raises(ModelError, match="'out_proj' is incompatible with Mamba") as caught:
        make_trainable(mamba, LORA, seed=0)
    assert caught.value.remedy == "Set tuning.method to full, or name some of dt_proj, in_proj, x_proj."


@pytest.mark.parametrize(
    ("targets", "wrong", "meant"),
    [
        (["q_proj", "v_prj"], "v_prj", "did you mean v_proj?"),
        (["q_proj", "query_key_value"], "query_key_value", "fits no layer of this model"),
        (["down_projj"], "down_projj", "fits no layer"),
    ],
)
def test_one_name_that_fits_no_layer_is_refused_with_the_one_that_was_meant(
    tiny_folder: Path, targets: list[str], wrong: str, meant: str
) -> None:
    tuning = TuningConfig(lora_target_modules=targets)
    for refuse in (
        lambda: make_trainable(tiny_model(), tuning, seed=0),
        lambda: check_tuning(tiny_folder, tuning),
    ):
        with pytest.raises(ModelError, match=wrong) as caught:
            refuse()
        assert meant in caught.value.message
        assert caught.value.code == "no-target-modules"


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"], r".*\.v_proj", ["mlp.up_proj"]])
def test_targets_that_fit_are_passed_without_weights(tiny_folder: Path, targets: str | list[str]) -> None:
    assert check_tuning(tiny_folder, TuningConfig(lora_target_modules=targets)) is None
    assert check_tuning(tiny_folder, FULL) is None


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["embed_tokens"], r".*(lm_head|q_proj)"])
@pytest.mark.filterwarnings("error")
def test_an_end_that_shares_its_weights_takes_no_adapter(targets: str | list[str]) -> None:
    with pytest.raises(ModelError, match="other end") as caught:
        make_trainable(tiny_model(), TuningConfig(lora_target_modules=targets), seed=0)
    assert caught.value.code == "tied-target"
    assert "lm_head" not in caught.value.remedy
    untied = tiny_model(tie_word_embeddings=False)
    assert trainable_parameters(make_trainable(untied, TuningConfig(lora_target_modules=targets), seed=0))


def test_names_of_experts_that_were_merged_into_one_weight_still_fit() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = MixtralConfig(**sizes, num_key_value_heads=2, vocab_size=64, num_local_experts=2)
    tuning = TuningConfig(lora_target_modules=["q_proj", "w1", "w2", "w3"])
    learned = trainable_parameters(make_trainable(MixtralForCausalLM(config), tuning, seed=0))
    assert any(".experts." in name for name in learned)


@pytest.mark.parametrize("target", ["all-linear", ["q_proj", "v_proj"], r".*\.(q|v)_proj"])
def test_adapters_stand_in_the_text_model_only(target: str | list[str]) -> None:
    model = make_trainable(with_vision(), TuningConfig(lora_target_modules=target), seed=0)
    assert all(".language_model." in name for name in trainable_parameters(model))


def test_a_name_that_only_a_tower_has_is_refused() -> None:
    with pytest.raises(ModelError, match="out_proj"):
        make_trainable(with_vision(), TuningConfig(lora_target_modules=["q_proj", "out_proj"]), seed=0)


def test_full_leaves_towers_and_what_the_architecture_fixes_alone() -> None:
    seen = trainable_parameters(make_trainable(with_vision(), FULL, seed=0))
    assert all("language_model" in name for name in seen)
    learned = trainable_parameters(make_trainable(router_bias(), FULL, seed=0))
    assert not any("expert_bias" in name for name in learned)


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_a_router_that_returns_several_tensors_hinders_nobody(tuning: TuningConfig) -> None:
    model = make_trainable(jittering_router(), tuning, seed=0)
    ids = torch.arange(3, 12)[None]
    learned = trainable_parameters(model)
    found = torch.autograd.grad(model(ids, labels=ids).loss, list(learned.values()), allow_unused=True)
    assert any(part is not None for part in found)
    assert not any("router.lora" in name for name in learned)


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
@torch.no_grad()
def test_before_the_first_step_the_model_says_what_it_said(tuning: TuningConfig) -> None:
    ids = torch.arange(2, 20)[None]
    before = tiny_model()(ids).logits

    model = make_trainable(tiny_model(), tuning, seed=0)

    torch.testing.assert_close(model(ids).logits, before)


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_trained_weights_are_fp32_and_frozen_ones_keep_their_precision(tuning: TuningConfig) -> None:
    model = make_trainable(tiny_model().to(torch.bfloat16), tuning, seed=0)

    kinds = {(part.requires_grad, part.dtype) for part in model.parameters()}
    frozen = {(False, torch.bfloat16)} if tuning is LORA else set()
    assert kinds == {(True, torch.float32)} | frozen


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_a_model_that_is_to_learn_is_in_training_mode(tuning: TuningConfig) -> None:
    model = make_trainable(tiny_model(), tuning, seed=0)

    assert all(part.training for part in model.modules())


def _start(seed: int) -> list[torch.Tensor]:
    return [
        part.detach() for part in trainable_parameters(make_trainable(tiny_model(), LORA, seed=seed)).values()
    ]


def test_the_start_depends_on_the_seed_and_on_nothing_before_it() -> None:
    first = _start(3)
    torch.rand(17)

    assert all(torch.equal(a, b) for a, b in zip(first, _start(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, _start(4), strict=True))


def test_every_method_a_person_can_choose_is_there() -> None:
    assert set(METHODS) == set(TuningConfig.model_fields["method"].annotation.__args__)


def test_parameters_are_named_in_the_models_order_and_shared_ones_once() -> None:
    model = tiny_model()
    model.base_model.norm.requires_grad_(requires_grad=False)

    names = list(trainable_parameters(model))

    assert names == [name for name, _ in model.named_parameters() if name != "model.norm.weight"]
    assert "lm_head.weight" not in names


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (tiny_model, False),
        (lambda: tiny_model("gpt2"), True),
        (lambda: tiny_model("gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0), False),
        (lambda: tiny_model(attention_dropout=0.1), True),
        (lambda: make_trainable(tiny_model(), LORA, seed=0), False),
        (lambda: make_trainable(tiny_model(), TuningConfig(lora_dropout=0.1), seed=0), True),
        (lambda: nn.Linear(2, 2), False),
        (lambda: nn.Sequential(nn.Dropout(0.0)), False),
        (lambda: nn.Sequential(nn.Dropout(0.5)), True),
    ],
)
def test_dropout_is_found_wherever_it_is(model: object, expected: bool) -> None:
    assert uses_dropout(model()) is expected
