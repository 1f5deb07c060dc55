"""The plain form of an adapter, which every program applies in the same way; see ``run.adapter_settings`` for why.

The update of every layer is then B A: its scale is multiplied into B, ``lora_alpha`` is ``r``, and smaller ranks are
filled up with zeros. An adapter that is plain as it was trained stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Embedding, LoraLayer, ParamWrapper
from safetensors.torch import load_file
from torch import Tensor

from backend.errors import ExportError
from backend.run.adapter_settings import ADAPTER_CONFIG, PLAIN, base_changed, settings_to_fold

WEIGHTS = "adapter_model.safetensors"

_MATRIX = re.compile(r"(?P<layer>.+)\.lora_(?:embedding_)?(?P<side>[AB])(?:\.weight)?")
_ANY_VALUE = frozenset(
    {
        *("peft_type", "task_type", "peft_version", "auto_mapping", "inference_mode", "revision"),
        *("base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "fan_in_fan_out"),
        *("target_modules", "target_parameters", *PLAIN),
    }
)
"""Settings of which no value keeps an adapter from having a plain form."""


@dataclass(frozen=True)
class PlainLora:
    """An adapter as its files hold it: ``config`` is adapter_config.json, ``weights`` are its tensors by name.

    ``folded`` are the settings of the trained adapter that went into the weights; without any nothing was changed.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    folded: tuple[str, ...] = ()


def matrix_name(weight: str) -> tuple[str, str]:
    """Return the layer of an adapter's ``weight``, by its name in a ``PeftModel``, and its side, A or B.

    Raises ExportError ``merged-only`` for a weight that is neither.
    """
    found = _MATRIX.fullmatch(weight)
    if found is None:
        raise _merged_only([weight])
    return found["layer"], found["side"]


def check_plain(config: Mapping[str, Any]) -> None:
    """Raise ExportError ``merged-only`` if an adapter with this adapter_config.json has no plain form."""
    usual = LoraConfig().to_dict()
    odd = [
        key for key, value in config.items() if value and key not in _ANY_VALUE and value != usual.get(key)
    ]
    if base_changed(config):
        odd.append("init_lora_weights")
    if config.get("peft_type") != "LORA":
        odd = ["peft_type"]
    if odd:
        raise _merged_only(odd)


def _merged_only(names: list[str]) -> ExportError:
    return ExportError(
        f"This run has no adapter that every program can read: it was trained with {', '.join(names)}.",
        remedy="Export the merged model, which has all that was trained: `to=merged` or `to=gguf`.",
        code="merged-only",
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Return the adapter_config.json in ``folder``."""
    config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
    return config


def plain_form(model: PeftModel, folder: Path) -> PlainLora:
    """Return the adapter in ``folder``, which ``model`` has loaded, in its plain form.

    Raises ExportError ``merged-only`` if it has none.
    """
    config, weights = read_config(folder), load_file(folder / WEIGHTS)
    check_plain(config)
    layers = {matrix_name(weight)[0]: model.get_submodule(matrix_name(weight)[0]) for weight in weights}
    folded = settings_to_fold(config)
    if not folded:
        return PlainLora(config, weights)
    rank = max(
        [layer.r["default"] for layer in layers.values() if not isinstance(layer, ParamWrapper)] or [1]
    )
    plain = dict(PLAIN) | {"r": rank, "lora_alpha": rank, "target_modules": _targets(model, layers)}
    experts = _expert_ranks(layers, rank)
    return PlainLora(
        config | plain | {"rank_pattern": experts, "alpha_pattern": experts},
        {weight: _fold(weight, values, layers, rank) for weight, values in weights.items()},
        tuple(folded),
    )


def _fold(weight: str, values: Tensor, layers: Mapping[str, LoraLayer], rank: int) -> Tensor:
    """Return a matrix with its layer's scale in it, if it is B, and zeros up to ``rank``, if it is not of experts."""
    name, side = matrix_name(weight)
    layer = layers[name]
    scaled = values * layer.scaling["default"] if side == "B" else values
    missing = 0 if isinstance(layer, ParamWrapper) else rank - layer.r["default"]
    rows_after, columns_after = (missing, 0) if side == "A" else (0, missing)
    trailing = (0, 0) * (values.dim() - 2)
    return F.pad(scaled, (*trailing, 0, columns_after, 0, rows_after))


def _targets(model: PeftModel, layers: Mapping[str, LoraLayer]) -> list[str]:
    """Return the adapted modules as PEFT finds them: by the end of a name that they all have, else by their names."""
    adapted = {
        name.removeprefix("base_model.model.")
        for name, layer in layers.items()
        if not isinstance(layer, ParamWrapper)
    }
    others = {
        name.rpartition(".")[2] for name, _ in model.get_base_model().named_modules() if name not in adapted
    }
    ends = {name: name.rpartition(".")[2] for name in adapted}
    return sorted({name if end in others else end for name, end in ends.items()})


def _expert_ranks(layers: Mapping[str, LoraLayer], rank: int) -> dict[str, int]:
    """Return the ranks of adapted parameters that are no modules, such as experts, where they are not ``rank``."""
    ranks = {}
    for name, layer in layers.items():
        if isinstance(layer, ParamWrapper) and layer.r["default"] != rank:
            module = name.removeprefix("base_model.model.").replace(".base_layer", "")
            ranks[f"{module}.{layer.parameter_name}"] = layer.r["default"]
    return ranks


@torch.no_grad()
def update_errors(plain: PlainLora, model: PeftModel) -> dict[str, float]:
    """Return how far each layer's update is from PEFT's own in ``model``, relative to the latter's norm, by name.

    The update is computed as by a program that has one scale for all layers, such as vLLM: ``lora_alpha / r`` B A.
    Experts are left out, since PEFT interleaves their matrices.
    """
    scale = plain.config["lora_alpha"] / plain.config["r"]
    sides = {matrix_name(weight): values for weight, values in plain.weights.items()}
    errors = {}
    for name in dict.fromkeys(layer for layer, _ in sides):
        layer = model.get_submodule(name)
        if not isinstance(layer, ParamWrapper):
            wanted = layer.get_delta_weight("default")
            update = scale * sides[name, "B"].flatten(1) @ sides[name, "A"].flatten(1)
            turned = update.T if isinstance(layer, Embedding) or layer.fan_in_fan_out else update
            errors[name] = float((turned - wanted.flatten(1)).norm() / wanted.norm().clamp_min(1e-30))
    return errors
