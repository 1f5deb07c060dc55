"""A loaded model in, a trainable model out: METHODS maps a method's name to what it does. Floor F1."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from backend.config import TuningConfig
from backend.core.fused_lora import fuse_lora, run_experts_in_turn
from backend.errors import ModelError
from backend.utils.warning_utils import unwarned

_OF_PEFT = ((FutureWarning, ""), (RuntimeWarning, "The following (rank|alpha)_pattern keys"))
"""It asks transformers about a property that is to be renamed, and looks for experts, whose rank differs, among
modules only."""


def make_trainable(model: PreTrainedModel, tuning: TuningConfig, *, seed: int) -> PreTrainedModel | PeftModel:
    """Apply the method of ``tuning``; trained weights are fp32, all others frozen.

    The start of new weights depends on ``seed`` alone. Raises ModelError when the method does not fit the model.
    """
    torch.manual_seed(seed)
    trainable = METHODS[tuning.method](model, tuning)
    for parameter in trainable.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainable.train()
    return trainable


def _full(model: PreTrainedModel, _: TuningConfig) -> PreTrainedModel | PeftModel:
    model.requires_grad_(requires_grad=True)
    return model


def _lora(model: PreTrainedModel, tuning: TuningConfig) -> PreTrainedModel | PeftModel:
    settings = LoraConfig(
        r=tuning.lora_r,
        lora_alpha=tuning.lora_alpha,
        lora_dropout=tuning.lora_dropout,
        target_modules=tuning.lora_target_modules,
        task_type=TaskType.CAUSAL_LM,
    )
    names = sorted(
        {name.rpartition(".")[2] for name, part in model.named_modules() if type(part) is nn.Linear}
    )
    try:
        with unwarned(*_OF_PEFT):
            adapted = get_peft_model(model, settings)
    except (ValueError, re.error) as error:
        raise ModelError(
            f"tuning.lora_target_modules {tuning.lora_target_modules!r} fits no layer of this model.",
            remedy=f"Use all-linear or some of {', '.join(names) or 'its linear layers'}.",
            code="no-target-modules",
        ) from error
    fuse_lora(adapted)
    run_experts_in_turn(adapted)
    return adapted


METHODS: dict[str, Callable[[PreTrainedModel, TuningConfig], PreTrainedModel | PeftModel]] = {
    "full": _full,
    "lora": _lora,
}


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name, in the model's own order; shared ones once."""
    return {name: part for name, part in model.named_parameters() if part.requires_grad}


def uses_dropout(model: nn.Module) -> bool:
    """Whether anything in ``model`` draws random numbers while training."""
    own = any(isinstance(part, nn.Dropout) and part.p > 0 for part in model.modules())
    config = getattr(model, "config", None)
    return own or bool(getattr(config, "attention_dropout", 0.0))
