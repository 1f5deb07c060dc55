"""Make a loaded model trainable: full fine-tuning or LoRA, by the name in ``METHODS``.

Only what text reaches is trained: the weights of a vision or audio tower stay frozen, and so do those that the
architecture itself freezes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from backend.core.fused_lora import fuse_lora, run_experts_in_turn
from backend.core.model_loader import load_skeleton
from backend.core.tokenizer import load_tokenizer
from backend.run.config import TuningConfig
from backend.training.beside_lora import keep_precision, with_token_ids
from backend.training.earlier_adapter import earlier_adapter, load_earlier
from backend.training.lora import add_lora
from backend.training.reach import Reach, fixed_parameters, reach_of_text


def make_trainable(
    model: PreTrainedModel,
    tuning: TuningConfig,
    *,
    seed: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
    adapter: Path | None = None,
) -> PreTrainedModel | PeftModel:
    """Apply the method of ``tuning`` and return the model in training mode; trained weights are fp32, others frozen.

    The initial adapter weights depend on ``seed`` alone. ``tokenizer`` is needed where tokens are named by text,
    ``adapter`` is the folder of an earlier one to train further.
    Raises ModelError: those of ``check_tuning``, and ``unsupported-architecture`` if the model cannot be run on text.
    """
    reach = reach_of_text(model)
    torch.manual_seed(seed)
    if adapter is None:
        trainable = METHODS[tuning.method](model, with_token_ids(tuning, tokenizer), reach)
    else:
        trainable = _faster(load_earlier(model, adapter, dropout=tuning.lora_dropout))
    for parameter in trainable.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    keep_precision(trainable)
    trainable.train()
    return trainable


def check_tuning(folder: Path, tuning: TuningConfig) -> None:
    """Check that ``tuning`` fits the model in ``folder``, reading only its config.json and tokenizer.

    Raises ModelError: those of ``add_lora``, ``earlier_adapter`` and ``load_adapter``, and ``model-not-loadable``.
    """
    if adapter := earlier_adapter(tuning.adapter_name_or_path, folder):
        load_earlier(load_skeleton(folder), adapter, dropout=tuning.lora_dropout)
    elif tuning.method == "lora":
        texts = any(isinstance(token, str) for token in tuning.trainable_token_indices)
        named = with_token_ids(tuning, load_tokenizer(folder) if texts else None)
        add_lora(load_skeleton(folder), named, Reach.everything())


def _full(model: PreTrainedModel, _: TuningConfig, reach: Reach) -> PreTrainedModel | PeftModel:
    fixed = fixed_parameters(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in fixed and reach.has_parameter(name))
    return model


def _lora(model: PreTrainedModel, tuning: TuningConfig, reach: Reach) -> PreTrainedModel | PeftModel:
    return _faster(add_lora(model, tuning, reach))


def _faster(adapted: PeftModel) -> PeftModel:
    fuse_lora(adapted)
    run_experts_in_turn(adapted)
    return adapted


METHODS: dict[str, Callable[[PreTrainedModel, TuningConfig, Reach], PreTrainedModel | PeftModel]] = {
    "full": _full,
    "lora": _lora,
}


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name, in the model's order; shared ones once."""
    return {name: part for name, part in model.named_parameters() if part.requires_grad}


def uses_dropout(model: nn.Module) -> bool:
    """True if a dropout module of ``model``, or its attention configuration, has a probability above 0."""
    own = any(isinstance(part, nn.Dropout) and part.p > 0 for part in model.modules())
    config = getattr(model, "config", None)
    return own or bool(getattr(config, "attention_dropout", 0.0))
