"""Settings that fit by themselves but not beside others: they would do nothing or harm, and nobody would be told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from backend.errors import Problem
from backend.run.config import ObjectiveConfig, RunConfig, TuningConfig
from backend.run.methods import OBJECTIVES, OPTIMS

_ONLY_IN: Mapping[str, frozenset[str]] = {
    "beta": frozenset(name for name, facts in OBJECTIVES.items() if facts.beta is not None),
    "label_smoothing": frozenset({"dpo", "cpo"}),
    "desirable_weight": frozenset({"kto"}),
    "undesirable_weight": frozenset({"kto"}),
    "cpo_alpha": frozenset({"cpo"}),
    "simpo_gamma": frozenset({"simpo"}),
    **dict.fromkeys(
        (
            *("rewards", "reward_funcs", "reward_weights", "reward_timeout", "num_generations"),
            *("max_completion_length", "temperature", "scale_rewards", "mask_truncated_completions"),
        ),
        frozenset({"grpo"}),
    ),
}
"""Settings of the objective with the methods that use them."""
_SMOOTHED = ("sigmoid", "robust", "exo_pair")
_OF_ADAPTERS = (
    *("use_rslora", "use_dora", "init_lora_weights", "rank_pattern", "alpha_pattern"),
    *("exclude_modules", "layers_to_transform", "modules_to_save", "trainable_token_indices"),
    *("adapter_name_or_path", "qat_scheme", "fake_quant_after_n_steps"),
)
"""Settings of an adapter, without a meaning where every weight is trained."""
_BESIDE_EARLIER = {
    *("method", "adapter_name_or_path", "lora_dropout", "qat_scheme", "fake_quant_after_n_steps")
}
"""Settings that mean something beside an earlier adapter."""
_FUNCTION = re.compile(r".+\.py:[A-Za-z_]\w*")
_BY_LOSS = "goes by the held-out loss, which does not tell whether grpo goes well."
_OF_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")


def conflicts(config: RunConfig) -> list[Problem]:
    """Return a problem for each setting that others make meaningless."""
    return [
        *_of_quantization(config),
        *_without_evaluations(config),
        *_of_objective(config.objective),
        *_beside_objective(config),
        *_of_rewards(config),
        *_of_distillation(config),
        *_of_tuning(config.tuning),
        *_of_rounding(config),
        *_of_optimizer(config),
    ]


def _of_quantization(config: RunConfig) -> Iterator[Problem]:
    model = config.model
    loads = [name for name in ("load_in_4bit", "load_in_8bit") if getattr(model, name)]
    if len(loads) == 2:
        yield Problem("model.load_in_8bit", "is set beside model.load_in_4bit.", "Set one of the two.")
    if loads and config.tuning.trains_all:
        yield Problem(
            f"model.{loads[0]}",
            f"stores frozen weights, and tuning.method {config.tuning.method} has none.",
            "Set tuning.method to lora, or leave this setting out.",
        )
    if loads and config.tuning.init_lora_weights != "default":
        yield Problem(
            "tuning.init_lora_weights",
            f"starts at directions of the base's weights, which model.{loads[0]} packs.",
            "Leave one of the two out.",
        )
    for name in ("bnb_4bit_quant_type", "use_bnb_nested_quant"):
        if not model.load_in_4bit and getattr(model, name) != type(model).model_fields[name].default:
            yield Problem(
                f"model.{name}",
                "is about weights in 4 bits.",
                "Set model.load_in_4bit, or leave this setting out.",
            )


def _without_evaluations(config: RunConfig) -> Iterator[Problem]:
    evaluation = config.evaluation
    asked = {
        "evaluation.early_stopping_patience": evaluation.early_stopping_patience is not None,
        "evaluation.load_best_model_at_end": evaluation.load_best_model_at_end,
    }
    needed = {
        "data.validation": (config.data.validation, "Hold rows out, such as 0.1, or leave this setting out."),
        "evaluation.eval_steps": (evaluation.eval_steps, "Evaluate now and then, such as 0.1."),
    }
    for name, is_asked in asked.items():
        for other, (value, remedy) in needed.items():
            if is_asked and value == 0:
                yield Problem(name, f"has nothing to go by while {other} is 0.", remedy)
    if evaluation.forgetting_panel and config.data.validation == 0:
        yield Problem(
            "evaluation.forgetting_panel",
            "is measured beside held-out rows, and data.validation is 0.",
            "Hold rows out, such as 0.1, or leave this setting out.",
        )


def _of_objective(objective: ObjectiveConfig) -> Iterator[Problem]:
    method, known = objective.method, objective.facts.losses
    for name, methods in _ONLY_IN.items():
        if method not in methods and getattr(objective, name) != type(objective).model_fields[name].default:
            yield Problem(
                f"objective.{name}",
                f"does nothing in the method {method}.",
                f"Leave it out, or set objective.method to {' or '.join(sorted(methods))}.",
            )
    for loss in objective.loss_type:
        if loss not in known:
            those = f"{method} has {', '.join(known)}" if known else f"{method} has one loss only"
            remedy = "Name one of these." if known else "Leave objective.loss_type out."
            yield Problem("objective.loss_type", f"{loss} is no loss of {method}: {those}.", remedy)
    if len(set(objective.loss_type)) < len(objective.loss_type):
        yield Problem("objective.loss_type", "names a loss twice.", "Name it once, with its weight.")
    weights, losses = len(objective.loss_weights), len(objective.loss_type) or len(known[:1])
    if weights not in {0, losses}:
        yield Problem(
            "objective.loss_weights",
            f"has {weights} weights for {losses} losses.",
            "Give one weight for each loss in objective.loss_type.",
        )
    has_losses = objective.label_smoothing and method in _ONLY_IN["label_smoothing"]
    if has_losses and not set(objective.losses) & set(_SMOOTHED):
        yield Problem(
            "objective.label_smoothing",
            f"does nothing without the loss {' or '.join(_SMOOTHED)}.",
            "Set objective.loss_type to robust, or leave it out.",
        )
    if "exo_pair" in objective.loss_type and not objective.label_smoothing:
        yield Problem(
            "objective.loss_type", "exo_pair needs some label_smoothing.", "Set it to 0.001 or more."
        )


def _beside_objective(config: RunConfig) -> Iterator[Problem]:
    method, facts = config.objective.method, config.objective.facts
    noise = {
        "training.neftune_noise_alpha": config.training.neftune_noise_alpha,
        "tuning.lora_dropout": config.tuning.lora_dropout,
    }
    with_itself = "the one before training" if facts.needs_reference else "the one that gave the answers"
    for name, value in noise.items():
        if (facts.needs_reference or facts.samples) and value:
            yield Problem(
                name,
                f"would make the model differ from itself: {method} compares it with {with_itself}.",
                "Leave this setting out.",
            )
    if (facts.is_preference or facts.samples) and config.data.mix:
        yield Problem(
            "data.mix",
            f"mixes in single answers or texts, from which {method} does not learn.",
            "Leave this setting out.",
        )
    varied = config.augmentation.model_dump(exclude={"share"}, exclude_defaults=True)
    if (facts.is_preference or facts.samples) and varied:
        yield Problem(
            f"augmentation.{next(iter(varied))}",
            f"varies single answers, not the compared ones of {method}.",
            "Leave this setting out.",
        )


def _of_rewards(config: RunConfig) -> Iterator[Problem]:
    """Yield a problem for what grpo lacks or cannot have."""
    objective, evaluation = config.objective, config.evaluation
    if not objective.facts.samples:
        return
    rewards = len(objective.rewards) + len(objective.reward_funcs)
    if not rewards:
        yield Problem(
            "objective.rewards",
            "is empty, so that every answer would be worth the same.",
            "Name what a good answer fulfils, such as [{type: equals}], or a function in objective.reward_funcs.",
        )
    if objective.reward_weights and len(objective.reward_weights) != rewards:
        yield Problem(
            "objective.reward_weights",
            f"has {len(objective.reward_weights)} weights for {rewards} rewards.",
            "Give one for each of objective.rewards, then of objective.reward_funcs.",
        )
    if objective.reward_weights and any("weight" in each for each in objective.rewards):
        yield Problem(
            "objective.reward_weights",
            "is set beside a weight in objective.rewards.",
            "Leave one of the two out.",
        )
    for name in (each for each in objective.reward_funcs if not _FUNCTION.fullmatch(each)):
        yield Problem("objective.reward_funcs", f"{name!r} is no file.py:function.", "Write it like that.")
    if len(objective.loss_type) > 1 or objective.loss_weights:
        what = "has one loss without a weight." if objective.loss_weights else "has one loss at a time."
        yield Problem("objective.loss_type", f"grpo {what}", "Name one, such as dapo.")
    others = {
        "data.truncation": (config.data.truncation == "cut", "would cut questions off."),
        "tuning.qat_scheme": (
            config.tuning.qat_scheme is not None,
            "rounds weights, and answers are sampled without it.",
        ),
        "evaluation.load_best_model_at_end": (evaluation.load_best_model_at_end, _BY_LOSS),
        "evaluation.early_stopping_patience": (evaluation.early_stopping_patience is not None, _BY_LOSS),
    }
    for name, (is_set, what) in others.items():
        if is_set:
            remedy = "Set data.truncation to drop or error." if name == "data.truncation" else "Leave it out."
            yield Problem(name, what, remedy)


def _of_distillation(config: RunConfig) -> Iterator[Problem]:
    objective, fields = config.objective, type(config.objective).model_fields
    alphas = ("kd_alpha", "kd_ce_alpha")
    if config.data.teacher_logprobs is None:
        for name in alphas:
            if getattr(objective, name) != fields[name].default:
                yield Problem(
                    f"objective.{name}",
                    "does nothing without data.teacher_logprobs.",
                    "Name the file of a teacher's log-probabilities there, or leave this setting out.",
                )
        return
    varied = config.augmentation.model_dump(exclude={"share"}, exclude_defaults=True)
    others = {
        "objective.method": objective.method != "sft",
        "data.mix": config.data.mix is not None,
        f"augmentation.{next(iter(varied), '')}": bool(varied),
    }
    for name, is_set in others.items():
        if is_set:
            yield Problem(
                "data.teacher_logprobs",
                f"holds what a teacher says of these rows as supervised training reads them, not with {name}.",
                f"Leave one of the two out{', or set objective.method to sft' * (name == 'objective.method')}.",
            )
    if objective.kd_alpha == 0:
        yield Problem(
            "objective.kd_alpha",
            "is 0, so that nothing is learned from the teacher.",
            "Raise it, or leave data.teacher_logprobs out.",
        )


def _of_tuning(tuning: TuningConfig) -> Iterator[Problem]:
    fields = type(tuning).model_fields
    for name in _OF_ADAPTERS if tuning.trains_all else ():
        if getattr(tuning, name) != fields[name].default:
            yield Problem(
                f"tuning.{name}", f"does nothing while tuning.method is {tuning.method}.", "Leave it out."
            )
    if tuning.adapter_name_or_path is not None and not tuning.trains_all:
        for name in fields.keys() - _BESIDE_EARLIER:
            if getattr(tuning, name) != fields[name].default:
                what = "does nothing beside tuning.adapter_name_or_path: that adapter has its own."
                yield Problem(f"tuning.{name}", what, "Leave one of the two out.")
    targets = tuning.lora_target_modules
    if tuning.layers_to_transform and isinstance(targets, str) and targets != "all-linear":
        what = "does nothing beside a regular expression in tuning.lora_target_modules."
        yield Problem("tuning.layers_to_transform", what, "Write the layers into the expression.")


def _of_rounding(config: RunConfig) -> Iterator[Problem]:
    """Yield a problem for what cannot be rounded, or would make a result of weights that never were."""
    tuning = config.tuning
    if tuning.qat_scheme is None:
        if tuning.fake_quant_after_n_steps != type(tuning).model_fields["fake_quant_after_n_steps"].default:
            what = "does nothing without tuning.qat_scheme."
            yield Problem("tuning.fake_quant_after_n_steps", what, "Set tuning.qat_scheme, or leave it out.")
        return
    not_rounded = {
        "model.load_in_4bit": config.model.load_in_4bit,
        "model.load_in_8bit": config.model.load_in_8bit,
        "tuning.lora_dropout": tuning.lora_dropout,
        "tuning.use_dora": tuning.use_dora,
        "tuning.modules_to_save": tuning.modules_to_save,
        "tuning.trainable_token_indices": tuning.trainable_token_indices,
    }
    earlier = {
        "evaluation.load_best_model_at_end": config.evaluation.load_best_model_at_end,
        "evaluation.early_stopping_patience": config.evaluation.early_stopping_patience,
    }
    what = "cannot be rounded with the weights as tuning.qat_scheme asks."
    for name in (name for name, value in not_rounded.items() if value):
        yield Problem(name, what, "Leave one of the two out.")
    what = "may end in a model from before tuning.qat_scheme rounded the weights."
    for name in (name for name, value in earlier.items() if value):
        yield Problem(name, what, "Leave one of the two out.")


def _of_optimizer(config: RunConfig) -> Iterator[Problem]:
    training, trains_all = config.training, config.tuning.trains_all
    for name in _OF_ADAM:
        is_set = getattr(training, name) != type(training).model_fields[name].default
        if is_set and not OPTIMS[training.optim].uses_adam:
            yield Problem(
                f"training.{name}",
                f"does nothing in the optimizer {training.optim}.",
                "Leave it out, or set training.optim to adamw_torch.",
            )
    if training.loraplus_lr_ratio and trains_all:
        yield Problem(
            "training.loraplus_lr_ratio",
            f"is about the matrices of LoRA, and tuning.method is {config.tuning.method}.",
            "Leave it out, or set tuning.method to lora.",
        )
