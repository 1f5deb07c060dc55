"""Settings that fit by themselves but not beside others."""

from __future__ import annotations

from typing import Any

import pytest

from backend.errors import ConfigError
from backend.run.conflicts import conflicts
from backend.run.settings import parse_config
from backend.utils.config_utils import apply_overrides

GRPO = {"objective.method": "grpo", "objective.rewards": ["equals"]}


def _raw(settings: dict[str, Any]) -> dict[str, Any]:
    return apply_overrides({}, {"data.train": "rows.jsonl"} | settings)


def _problems(settings: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(_raw(settings))
    return [problem.field for problem in caught.value.problems]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"objective.method": "dpo", "objective.beta": 0.3},
        {
            "objective.method": "dpo",
            "objective.loss_type": "sigmoid, sft",
            "objective.loss_weights": "1, 0.2",
        },
        {"objective.method": "dpo", "objective.loss_weights": 2},
        {"objective.method": "dpo", "objective.loss_type": "robust", "objective.label_smoothing": 0.1},
        {"objective.method": "dpo", "objective.label_smoothing": 0.1},
        {"objective.method": "cpo", "objective.label_smoothing": 0.1},
        {
            "objective.method": "kto",
            "objective.undesirable_weight": 2,
            "objective.loss_type": "apo_zero_unpaired",
        },
        {"objective.method": "cpo", "objective.cpo_alpha": 0, "tuning.lora_dropout": 0.1},
        {"objective.method": "simpo", "objective.simpo_gamma": 0.5, "training.neftune_noise_alpha": 5},
        {"augmentation.typos": 0.01, "tuning.lora_dropout": 0.1, "training.neftune_noise_alpha": 5},
        {"objective.method": "cpt", "augmentation.share": 0.5},
        {"evaluation.early_stopping_patience": 2},
        {"objective.method": "grpo", "objective.rewards": ["equals"], "objective.loss_type": "dr_grpo"},
        {
            "objective.method": "grpo",
            "objective.rewards": ["equals"],
            "objective.reward_funcs": "mine.py:f, other.py:g",
            "objective.reward_weights": "1, 2, 0.5",
            "objective.scale_rewards": "none",
            "data.truncation": "drop",
        },
        {"tuning.layers_to_transform": [1], "tuning.lora_target_modules": "q_proj, v_proj"},
        {"tuning.adapter_name_or_path": "a", "tuning.lora_dropout": 0.1},
        {"tuning.adapter_name_or_path": "a", "tuning.qat_scheme": "Q4_0"},
        {"tuning.qat_scheme": "Q4_0", "tuning.fake_quant_after_n_steps": 0.5, "objective.method": "dpo"},
        {"tuning.use_rslora": True, "tuning.use_dora": True, "tuning.rank_pattern": {"q_proj": 4}},
        {"training.optim": "muon", "training.adam_beta2": 0.95, "training.loraplus_lr_ratio": 16},
        {"training.optim": "lion_32bit", "tuning.method": "full", "training.weight_decay": 0.1},
    ],
)
def test_settings_that_mean_something_together(settings: dict[str, Any]) -> None:
    assert conflicts(parse_config(_raw(settings))) == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"objective.beta": 0.1}, ["objective.beta"]),
        ({"tuning.method": "full", "tuning.use_dora": True}, ["tuning.use_dora"]),
        ({"tuning.method": "full", "tuning.adapter_name_or_path": "a"}, ["tuning.adapter_name_or_path"]),
        ({"tuning.lora_r": 8, "tuning.adapter_name_or_path": "a"}, ["tuning.lora_r"]),
        ({"tuning.modules_to_save": ["norm"], "tuning.adapter_name_or_path": "a"}, ["tuning.modules_to_save"]),
        ({"tuning.method": "full", "tuning.qat_scheme": "Q4_0"}, ["tuning.qat_scheme"]),
        ({"tuning.fake_quant_after_n_steps": 0.5}, ["tuning.fake_quant_after_n_steps"]),
        ({"tuning.qat_scheme": "Q4_0", "tuning.lora_dropout": 0.1}, ["tuning.lora_dropout"]),
        ({"tuning.qat_scheme": "Q4_0", "tuning.modules_to_save": ["norm"]}, ["tuning.modules_to_save"]),
        ({"tuning.qat_scheme": "Q4_0", "model.load_in_4bit": True}, ["model.load_in_4bit"]),
        (
            {"tuning.qat_scheme": "Q4_0", "evaluation.load_best_model_at_end": True},
            ["evaluation.load_best_model_at_end"],
        ),
        ({"tuning.method": "full", "tuning.rank_pattern": {"a": 1}}, ["tuning.rank_pattern"]),
        (
            {"tuning.lora_target_modules": ".*_proj", "tuning.layers_to_transform": [1]},
            ["tuning.layers_to_transform"],
        ),
        ({"objective.method": "kto", "objective.simpo_gamma": 1}, ["objective.simpo_gamma"]),
        ({"objective.method": "dpo", "objective.loss_type": "kto"}, ["objective.loss_type"]),
        ({"objective.method": "orpo", "objective.loss_type": "sigmoid"}, ["objective.loss_type"]),
        ({"objective.method": "dpo", "objective.loss_type": "ipo, ipo"}, ["objective.loss_type"]),
        ({"objective.method": "dpo", "objective.loss_weights": "1, 2"}, ["objective.loss_weights"]),
        (
            {"objective.method": "dpo", "objective.loss_type": "ipo", "objective.label_smoothing": 0.1},
            ["objective.label_smoothing"],
        ),
        ({"objective.method": "simpo", "objective.label_smoothing": 0.1}, ["objective.label_smoothing"]),
        ({"objective.method": "dpo", "objective.loss_type": "exo_pair"}, ["objective.loss_type"]),
        ({"objective.method": "dpo", "tuning.lora_dropout": 0.1}, ["tuning.lora_dropout"]),
        ({"objective.method": "kto", "training.neftune_noise_alpha": 5}, ["training.neftune_noise_alpha"]),
        ({"objective.method": "orpo", "augmentation.noise": 0.1}, ["augmentation.noise"]),
        ({"objective.method": "orpo", "data.mix": "general.jsonl"}, ["data.mix"]),
        ({"objective.method": "grpo"}, ["objective.rewards"]),
        ({"objective.rewards": ["equals"]}, ["objective.rewards"]),
        ({"objective.temperature": 0.7}, ["objective.temperature"]),
        (GRPO | {"objective.beta": 0.1}, ["objective.beta"]),
        (GRPO | {"objective.reward_weights": "1, 2"}, ["objective.reward_weights"]),
        (
            GRPO | {"objective.rewards": [{"type": "equals", "weight": 2}], "objective.reward_weights": 1},
            ["objective.reward_weights"],
        ),
        (GRPO | {"objective.reward_funcs": "mine.py"}, ["objective.reward_funcs"]),
        (GRPO | {"objective.loss_type": "dapo, grpo"}, ["objective.loss_type"]),
        (GRPO | {"objective.loss_weights": 2}, ["objective.loss_type"]),
        (GRPO | {"data.truncation": "cut"}, ["data.truncation"]),
        (GRPO | {"tuning.qat_scheme": "Q4_0"}, ["tuning.qat_scheme"]),
        (GRPO | {"tuning.lora_dropout": 0.1}, ["tuning.lora_dropout"]),
        (GRPO | {"training.neftune_noise_alpha": 5}, ["training.neftune_noise_alpha"]),
        (GRPO | {"augmentation.noise": 0.1}, ["augmentation.noise"]),
        (GRPO | {"data.mix": "general.jsonl"}, ["data.mix"]),
        (GRPO | {"evaluation.load_best_model_at_end": True}, ["evaluation.load_best_model_at_end"]),
        (GRPO | {"evaluation.early_stopping_patience": 2}, ["evaluation.early_stopping_patience"]),
        ({"objective.kd_alpha": 0.5}, ["objective.kd_alpha"]),
        ({"objective.kd_ce_alpha": 0.5}, ["objective.kd_ce_alpha"]),
        ({"data.teacher_logprobs": "t", "objective.kd_alpha": 0.0}, ["objective.kd_alpha"]),
        ({"data.teacher_logprobs": "t", "objective.method": "cpt"}, ["data.teacher_logprobs"]),
        ({"data.teacher_logprobs": "t", "data.mix": "general.jsonl"}, ["data.teacher_logprobs"]),
        ({"data.teacher_logprobs": "t", "augmentation.noise": 0.1}, ["data.teacher_logprobs"]),
        ({"evaluation.forgetting_panel": True, "data.validation": 0}, ["evaluation.forgetting_panel"]),
        ({"training.loraplus_lr_ratio": 16, "tuning.method": "full"}, ["training.loraplus_lr_ratio"]),
        ({"training.optim": "lion_8bit", "training.adam_beta2": 0.95}, ["training.adam_beta2"]),
        ({"training.optim": "adafactor", "training.adam_epsilon": 1e-6}, ["training.adam_epsilon"]),
        ({"evaluation.early_stopping_patience": 2, "data.validation": 0}, ["evaluation.early_stopping_patience"]),
        ({"evaluation.load_best_model_at_end": True, "evaluation.eval_steps": 0},
         ["evaluation.load_best_model_at_end"]),
    ],
)  # fmt: skip
def test_a_setting_without_meaning_is_named(settings: dict[str, Any], named: list[str]) -> None:
    assert _problems(settings) == named


def test_the_sentence_says_what_does_mean_something() -> None:
    with pytest.raises(
        ConfigError, match=r"objective\.cpo_alpha: does nothing in the method dpo.*method to cpo"
    ):
        parse_config(_raw({"objective.method": "dpo", "objective.cpo_alpha": 2}))


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"model.load_in_4bit": True, "model.load_in_8bit": True}, ["model.load_in_8bit"]),
        ({"model.load_in_4bit": True, "tuning.method": "full"}, ["model.load_in_4bit"]),
        ({"model.load_in_8bit": True, "tuning.method": "full"}, ["model.load_in_8bit"]),
        ({"model.bnb_4bit_quant_type": "fp4"}, ["model.bnb_4bit_quant_type"]),
        ({"model.load_in_4bit": True, "tuning.init_lora_weights": "olora"}, ["tuning.init_lora_weights"]),
        ({"model.load_in_8bit": True, "model.use_bnb_nested_quant": True}, ["model.use_bnb_nested_quant"]),
    ],
)
def test_a_way_to_store_weights_that_would_do_nothing(settings: dict[str, Any], fields: list[str]) -> None:
    assert _problems(settings) == fields


@pytest.mark.parametrize(
    "settings",
    [
        {"model.load_in_8bit": True},
        {"model.load_in_4bit": True, "model.bnb_4bit_quant_type": "fp4", "model.use_bnb_nested_quant": True},
    ],
)
def test_weights_are_stored_in_one_way(settings: dict[str, Any]) -> None:
    assert conflicts(parse_config(_raw(settings))) == []
