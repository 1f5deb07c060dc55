"""Make a loaded model trainable: full fine-tuning or LoRA, by the name in ``METHODS``.

Only what text reaches is trained: the weights of a vision or audio tower stay frozen, and so do those that the
architecture itself freezes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from backend.core.fused_lora import fuse_lora, run_experts_in_turn
from backend.core.model_loader import load_skeleton
from backend.errors import ModelError
from backend.run.config import TuningConfig
from backend.run.methods import is_target
from backend.training.reach import Reach, fixed_parameters, reach_of_text
from backend.utils.warning_utils import unwarned

_OF_PEFT = ((FutureWarning, ""), (RuntimeWarning, "The following (rank|alpha)_pattern keys"))
"""PEFT warnings to silence: it reads a deprecated property of transformers, and looks for experts, whose rank
differs, among modules only."""
_LAYERS = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layer types that PEFT can adapt."""


def make_trainable(model: PreTrainedModel, tuning: TuningConfig, *, seed: int) -> PreTrainedModel | PeftModel:
    """Apply the method of ``tuning`` and return the model in training mode; trained weights are fp32, others frozen.

    The initial adapter weights depend on ``seed`` alone. Raises ModelError: those of ``check_tuning``, and
    ``unsupported-architecture`` if the model cannot be run on text.
    """
    reach = reach_of_text(model)
    torch.manual_seed(seed)
    trainable = METHODS[tuning.method](model, tuning, reach)
    for parameter in trainable.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainable.train()
    return trainable


def check_tuning(folder: Path, tuning: TuningConfig) -> None:
    """Check that ``tuning`` fits the model in ``folder``, reading only its config.json.

    Raises ModelError ``no-target-modules`` for a name that fits no layer, ``tied-target`` for a head or embedding
    that shares its weights with the other, ``model-not-loadable``.
    """
    if tuning.method == "lora":
        _with_adapters(load_skeleton(folder), tuning, Reach.everything())


def _full(model: PreTrainedModel, _: TuningConfig, reach: Reach) -> PreTrainedModel | PeftModel:
    fixed = fixed_parameters(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in fixed and reach.has_parameter(name))
    return model


def _lora(model: PreTrainedModel, tuning: TuningConfig, reach: Reach) -> PreTrainedModel | PeftModel:
    adapted = _with_adapters(model, tuning, reach)
    fuse_lora(adapted)
    run_experts_in_turn(adapted)
    return adapted


METHODS: dict[str, Callable[[PreTrainedModel, TuningConfig, Reach], PreTrainedModel | PeftModel]] = {
    "full": _full,
    "lora": _lora,
}


def _with_adapters(model: PreTrainedModel, tuning: TuningConfig, reach: Reach) -> PeftModel:
    """Add LoRA layers to the modules that ``tuning`` names and text reaches. Raises ModelError."""
    targets = tuning.lora_target_modules
    names, outside = list[str](), list[str]()
    for name, part in model.named_modules():
        (outside if isinstance(part, _LAYERS) and not reach.has_layer(name) else names).append(name)
    ends = _tied_ends(model)
    linear = [name for name in names if isinstance(model.get_submodule(name), nn.Linear | Conv1D)]
    usable = sorted({name.rpartition(".")[2] for name in linear if name not in ends})
    _refuse_tied_ends([name for name in ends if is_target(name, targets)], usable)
    settings = LoraConfig(
        r=tuning.lora_r,
        lora_alpha=tuning.lora_alpha,
        lora_dropout=tuning.lora_dropout,
        target_modules=targets,
        exclude_modules=_pattern(outside),
        task_type=TaskType.CAUSAL_LM,
    )
    try:
        with unwarned(*_OF_PEFT):
            adapted = get_peft_model(model, settings)
    except (ValueError, re.error) as error:
        if "incompatible" not in str(error):
            raise _no_target(f"{targets!r} fits no layer of this model", usable) from error
        raise _incompatible(targets, usable, str(error)) from error
    # PEFT silently skips a name of a list that fits nothing; by now it has translated old names of layers
    wanted = adapted.peft_config["default"].target_modules
    for target in sorted(wanted) if isinstance(targets, list) else ():
        if not any(is_target(name, [target]) for name in names):
            near = difflib.get_close_matches(target, usable, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise _no_target(f"names {target!r}, which fits no layer of this model{meant}", usable)
    return adapted


def _tied_ends(model: PreTrainedModel) -> list[str]:
    """Return the names of embeddings and head if they share one weight matrix, else nothing."""
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    if last is None or getattr(first, "weight", None) is not getattr(last, "weight", None):
        return []
    return [name for name, part in model.named_modules() if part is first or part is last]


def _pattern(names: Sequence[str]) -> str | None:
    """Return a regular expression for ``names``, with one alternative for all layers that differ in their numbers."""
    kinds = {re.sub(r"(?<=\\\.)\d+(?=\\\.|$)", r"\\d+", re.escape(name)) for name in names}
    return "|".join(sorted(kinds)) or None


def _refuse_tied_ends(names: Sequence[str], usable: Sequence[str]) -> None:
    if names:
        raise ModelError(
            f"tuning.lora_target_modules names {', '.join(names)}, which shares its weights with the other end of "
            "this model: an adapter on one end alone cannot be merged or exported.",
            remedy=f"Leave it out: use all-linear or some of {', '.join(usable)}.",
            code="tied-target",
        )


def _no_target(what: str, usable: Sequence[str]) -> ModelError:
    return ModelError(
        f"tuning.lora_target_modules {what}.",
        remedy=f"Use all-linear or some of {', '.join(usable) or 'its linear layers'}.",
        code="no-target-modules",
    )


def _incompatible(targets: str | list[str], usable: Sequence[str], refusal: str) -> ModelError:
    """Return the error for modules that peft refuses by name in this architecture, such as out_proj in Mamba."""
    refused = set(re.findall(r"'(\w+)'", refusal))
    others = [name for name in usable if name not in refused]
    return ModelError(
        f"tuning.lora_target_modules {targets!r} cannot be adapted: {refusal.partition('. ')[0]}.",
        remedy=f"Set tuning.method to full, or name some of {', '.join(others)}.",
        code="no-target-modules",
    )


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name, in the model's order; shared ones once."""
    return {name: part for name, part in model.named_parameters() if part.requires_grad}


def uses_dropout(model: nn.Module) -> bool:
    """True if a dropout module of ``model``, or its attention configuration, has a probability above 0."""
    own = any(isinstance(part, nn.Dropout) and part.p > 0 for part in model.modules())
    config = getattr(model, "config", None)
    return own or bool(getattr(config, "attention_dropout", 0.0))
