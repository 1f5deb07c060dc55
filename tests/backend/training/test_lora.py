"""LoRA layers as the settings ask: held against PEFT itself, and names that fit nothing are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel

from backend.errors import ModelError
from backend.training.lora import lora_layers, tied_ends
from backend.training.tuning import check_tuning, make_trainable, trainable_parameters
from tests.backend.core.rows import lively_model
from tests.backend.training.variants import GPT2, VARIANTS, tuning
from tests.tiny import Architecture, tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft asks for it
    pytest.mark.filterwarnings("ignore:fan_in_fan_out"),
]
IDS = torch.arange(2, 30)[None]


def _peft(architecture: Architecture, settings: dict[str, Any], seed: int) -> Any:
    """The same settings given to PEFT, without us."""
    names = {"llama": [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]}
    targets = names.get(architecture, ["c_attn", "c_proj", "c_fc"])
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **settings)
    torch.manual_seed(seed)
    return get_peft_model(tiny_model(architecture), config)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("llama", {"use_rslora": True}),
        ("llama", {"use_dora": True}),
        (
            "llama",
            {"rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 7}, "alpha_pattern": {"v_proj": 3}},
        ),
        ("llama", {"rank_pattern": {r"layers\.\d+\.mlp\..*": 3}, "use_rslora": True}),
        ("llama", {"layers_to_transform": [1]}),
        ("llama", {"exclude_modules": ["up_proj", "layers.0.self_attn.q_proj"]}),
        ("gpt2", {"rank_pattern": {"c_attn": 2}, "alpha_pattern": {"mlp.c_proj": 3}}),
        ("gpt2", {"layers_to_transform": [0], "exclude_modules": ["c_fc"]}),
    ],
)
def test_layers_ranks_scales_and_first_weights_are_those_of_peft(
    architecture: Architecture, settings: dict[str, Any]
) -> None:
    ours = make_trainable(tiny_model(architecture), tuning(**settings), seed=3)
    theirs = _peft(architecture, settings, seed=3)

    found, wanted = (
        {name: (layer.r["default"], layer.scaling["default"]) for name, layer in lora_layers(model)}
        for model in (ours, theirs)
    )
    assert found == wanted
    learned, expected = trainable_parameters(ours), trainable_parameters(theirs)
    assert learned.keys() == expected.keys()
    assert all(torch.equal(learned[name], expected[name]) for name in learned)


@pytest.mark.parametrize(
    ("architecture", "name"), [*(("llama", name) for name in VARIANTS), *(("gpt2", name) for name in GPT2)]
)
def test_outputs_and_gradients_are_those_of_pefts_own_layers(architecture: Architecture, name: str) -> None:
    settings = {"llama": VARIANTS, "gpt2": GPT2}[architecture][name]
    model = make_trainable(lively_model(architecture), settings, seed=0).eval()
    learned = trainable_parameters(model)
    generator = torch.Generator().manual_seed(0)
    for part in learned.values():
        part.data += 0.05 * torch.randn(part.shape, generator=generator)

    def outcome() -> list[torch.Tensor]:
        loss = model(IDS, labels=IDS).loss
        return [loss.detach(), *torch.autograd.grad(loss, list(learned.values()))]

    ours = outcome()
    for _, layer in lora_layers(model):
        vars(layer).pop("forward", None)
    torch.testing.assert_close(ours, outcome(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "field", "said"),
    [
        ({"exclude_modules": ["up_prj"]}, "exclude_modules", "did you mean up_proj?"),
        ({"exclude_modules": ["mlp"]}, "exclude_modules", "fits no layer"),
        ({"exclude_modules": ["lm_head"]}, "exclude_modules", "fits no layer"),
        (
            {"lora_target_modules": ["q_proj"], "exclude_modules": ["v_proj"]},
            "exclude_modules",
            "fits no layer",
        ),
        ({"layers_to_transform": [0, 2]}, "layers_to_transform", "layer 2"),
        ({"layers_to_transform": [99], "lora_target_modules": ["q_proj"]}, "layers_to_transform", "layer 99"),
        ({"rank_pattern": {"down_prj": 3}}, "rank_pattern", "did you mean down_proj?"),
        ({"rank_pattern": {"q_proj[": 3}}, "rank_pattern", "no regular expression"),
        ({"alpha_pattern": {"layers.5.mlp.up_proj": 3}}, "alpha_pattern", "fits no layer"),
        ({"alpha_pattern": {"q_proj": 3}, "exclude_modules": ["q_proj"]}, "alpha_pattern", "fits no layer"),
        (
            {
                "layers_to_transform": [1],
                "lora_target_modules": ["v_proj", "model.layers.0.self_attn.q_proj"],
            },
            "layers_to_transform",
            "named in full",
        ),
    ],
)
def test_a_name_that_fits_nothing_is_refused(
    settings: dict[str, Any], field: str, said: str, tiny_folder: Path
) -> None:
    for refuse in (
        lambda: make_trainable(tiny_model(), tuning(**settings), seed=0),
        lambda: check_tuning(tiny_folder, tuning(**settings)),
    ):
        with pytest.raises(ModelError) as caught:
            refuse()
        assert f"tuning.{field}" in caught.value.message
        assert said in caught.value.message
        assert caught.value.remedy
        assert caught.value.code == "no-target-modules"


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_two_patterns_that_fit_one_layer_are_refused(field: str) -> None:
    """PEFT takes the first that fits; its file sorts them, so a reload would take another."""
    unclear = tuning(**{field: {"q_proj": 3, "layers.0.self_attn.q_proj": 5}})
    with pytest.raises(ModelError, match=r"both fit model\.layers\.0\.self_attn\.q_proj") as caught:
        make_trainable(tiny_model(), unclear, seed=0)
    assert caught.value.code == "unclear-pattern"


def test_excluding_every_layer_leaves_nothing_to_train() -> None:
    nothing = tuning(lora_target_modules=["q_proj"], exclude_modules=["q_proj"])
    with pytest.raises(ModelError, match="exclude_modules") as caught:
        make_trainable(tiny_model(), nothing, seed=0)
    assert caught.value.code == "no-target-modules"


def _experts() -> PreTrainedModel:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    return MixtralForCausalLM(
        MixtralConfig(**sizes, num_key_value_heads=2, vocab_size=64, num_local_experts=2)
    )


def test_layers_that_cannot_be_kept_out_are_named() -> None:
    asked = tuning(layers_to_transform=[1], lora_target_modules=["q_proj", "w1", "w2", "w3"])
    with pytest.raises(ModelError, match=r"leaves model\.layers\.0\.mlp\.experts out"):
        make_trainable(_experts(), asked, seed=0)


def test_ends_are_tied_where_they_share_one_matrix() -> None:
    assert tied_ends(tiny_model()) == ["model.embed_tokens", "lm_head"]
    assert tied_ends(tiny_model(tie_word_embeddings=False)) == []


def test_a_model_without_adapters_has_no_layers() -> None:
    assert list(lora_layers(nn.Sequential(nn.Linear(2, 2)))) == []
