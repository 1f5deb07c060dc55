"""Add LoRA layers to a model as the settings ask, through PEFT; refuse settings that name nothing in it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from backend.errors import ModelError
from backend.run.config import TuningConfig
from backend.run.methods import fits_pattern, is_target, layer_number
from backend.training.beside_lora import require_shared, token_rows, whole_layers
from backend.training.lora_start import doubled, start_at_base
from backend.training.reach import Reach
from backend.utils.config_utils import closest
from backend.utils.warning_utils import unwarned

_OF_PEFT = (
    (FutureWarning, ""),
    (RuntimeWarning, "The following (rank|alpha)_pattern keys"),
    (UserWarning, "You have requested .ensure_weight_tying"),
)
"""PEFT warnings to silence: it reads a deprecated property of transformers, looks for experts, whose rank differs,
among modules only, and says of ends that it does not tie what ``require_shared`` refuses."""
_LAYERS = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layer types that PEFT can adapt."""


def add_lora(model: PreTrainedModel, tuning: TuningConfig, reach: Reach) -> PeftModel:
    """Add LoRA layers to the modules that ``tuning`` names and text reaches; ``model`` is changed in place.

    Token texts must be ids by now, see ``with_token_ids``. Raises ModelError: ``no-target-modules`` for a name or a
    layer number that fits nothing, ``unclear-pattern`` for two patterns that fit one layer, ``tied-target`` for an
    end that would be parted from the other, and those of ``whole_layers``, ``token_rows`` and ``start_at_base``.
    """
    targets = tuning.lora_target_modules
    names, outside = list[str](), list[str]()
    for name, part in model.named_modules():
        (outside if isinstance(part, _LAYERS) and not reach.has_layer(name) else names).append(name)
    ends = tied_ends(model)
    linear = [name for name in names if isinstance(model.get_submodule(name), nn.Linear | Conv1D)]
    usable = sorted({_last(name) for name in linear if name not in ends})
    whole = whole_layers(model, tuning.modules_to_save, reach)
    tied = any(name in ends for name in whole)
    whole = [*whole, *(name for name in ends if tied and name not in whole)]
    tokens = [token for token in tuning.trainable_token_indices if isinstance(token, int)]
    aimed = _aimed(model, linear if targets == "all-linear" else names, targets)
    _refuse_tied_ends(
        [name for name in aimed if name in ends and not is_target(name, tuning.exclude_modules)], usable
    )
    _check_names(tuning, aimed)
    if tokens:
        _refuse_twice(model, [*whole, *aimed])
    if tuning.layers_to_transform and targets == "all-linear":  # PEFT takes layers beside a list only
        targets = [name for name in aimed if layer_number(name) in tuning.layers_to_transform]
    settings = LoraConfig(
        r=tuning.lora_r,
        lora_alpha=tuning.lora_alpha,
        lora_dropout=tuning.lora_dropout,
        target_modules=targets,
        exclude_modules=_pattern(outside, tuning.exclude_modules),
        layers_to_transform=tuning.layers_to_transform or None,
        rank_pattern=dict(tuning.rank_pattern),
        alpha_pattern=dict(tuning.alpha_pattern),
        use_rslora=tuning.use_rslora,
        use_dora=tuning.use_dora,
        modules_to_save=[*whole] or None,
        trainable_token_indices=token_rows(model, tokens, tied=bool(ends)),
        ensure_weight_tying=tied,
        task_type=TaskType.CAUSAL_LM,
    )
    at_base = tuning.init_lora_weights != "default"
    try:
        with unwarned(*_OF_PEFT):
            adapted = get_peft_model(model, doubled(settings) if at_base else settings)
    except (ValueError, re.error) as error:
        if aimed and all(is_target(name, tuning.exclude_modules) for name in aimed):
            raise ModelError(
                "tuning.exclude_modules leaves no layer to adapt.",
                remedy="Exclude fewer of the modules that tuning.lora_target_modules names.",
                code="no-target-modules",
            ) from error
        if "incompatible" not in str(error):
            raise _no_target(f"{targets!r} fits no layer of this model", usable) from error
        raise _incompatible(targets, usable, str(error)) from error
    _check_targets(adapted, tuning, usable, names)
    # PEFT has taken the head out, by whose name alone it sees on loading that both ends are to be tied
    adapted.peft_config["default"].modules_to_save = whole or None
    if ends:
        require_shared(adapted)
    if at_base:
        start_at_base(adapted, tuning.init_lora_weights)
    return adapted


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """Yield the LoRA layers of ``model`` by their names in the base model."""
    for name, part in model.named_modules():
        if isinstance(part, LoraLayer):
            yield name.removeprefix("base_model.model."), part


def tied_ends(model: PreTrainedModel) -> list[str]:
    """Return the names of embeddings and head if they share one weight matrix, else nothing."""
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    if last is None or getattr(first, "weight", None) is not getattr(last, "weight", None):
        return []
    return [name for name, part in model.named_modules() if part is first or part is last]


def _aimed(model: PreTrainedModel, names: Sequence[str], targets: str | Sequence[str]) -> list[str]:
    """Return those of ``names`` that ``lora_target_modules`` means, whatever else is left out afterwards."""
    if targets == "all-linear":
        return [name for name in names if model.get_submodule(name) is not model.get_output_embeddings()]
    return [name for name in names if is_target(name, targets)]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _pattern(names: Sequence[str], ends: Sequence[str]) -> str | None:
    """Return a regular expression for ``names`` and for all names that end in ``ends``.

    It has one alternative for all of ``names`` that differ in their numbers.
    """
    kinds = {re.sub(r"(?<=\\\.)\d+(?=\\\.|$)", r"\\d+", re.escape(name)) for name in names}
    suffixes = {rf"(.*\.)?{re.escape(end)}" for end in ends}
    return "|".join(sorted(kinds | suffixes)) or None


# --- names that fit nothing -----------------------------------------------------------------------------------


def _check_names(tuning: TuningConfig, aimed: Sequence[str]) -> None:
    """Check, before the model is changed, the settings that choose among the layers ``aimed`` at."""
    for name in tuning.exclude_modules:
        if aimed and not any(is_target(layer, [name]) for layer in aimed):
            raise _fits_nothing("exclude_modules", name, aimed)
    numbers = {layer_number(name) for name in aimed} - {None}
    for number in tuning.layers_to_transform:
        if aimed and number not in numbers:
            there = sorted(number for number in numbers if number is not None)
            shown = f"{there[0]} to {there[-1]}" if there else "none"
            raise ModelError(
                f"tuning.layers_to_transform names layer {number}, in which this model has no module to adapt.",
                remedy=f"The layers with such modules are {shown}.",
                code="no-target-modules",
            )
    for field, patterns in (("rank_pattern", tuning.rank_pattern), ("alpha_pattern", tuning.alpha_pattern)):
        for key in patterns:
            try:
                re.compile(key)
            except re.error as error:
                raise ModelError(
                    f"tuning.{field} names {key!r}, which is no regular expression: {error}.",
                    remedy="Write the name of a module, such as down_proj.",
                    code="no-target-modules",
                ) from error


def _check_targets(
    adapted: PeftModel, tuning: TuningConfig, usable: Sequence[str], names: Sequence[str]
) -> None:
    """Check that every name in the settings had an effect: PEFT silently skips one that fits nothing."""
    layers = [name for name, _ in lora_layers(adapted)]
    # by now PEFT has translated old names of layers
    wanted = adapted.peft_config["default"].target_modules
    for target in sorted(wanted) if isinstance(tuning.lora_target_modules, list) else ():
        if not any(is_target(name, [target]) for name in names):
            near = closest(target, usable)
            meant = f"; did you mean {near}?" if near else ""
            raise _no_target(f"names {target!r}, which fits no layer of this model{meant}", usable)
    chosen = tuning.layers_to_transform
    if stray := [name for name in layers if chosen and layer_number(name) not in chosen]:
        raise ModelError(
            f"tuning.layers_to_transform leaves {stray[0]} out, which PEFT adapts all the same: it is named in full, "
            "or one of several experts.",
            remedy="Leave it out of tuning.lora_target_modules, or adapt all layers.",
            code="no-target-modules",
        )
    for field, patterns in (("rank_pattern", tuning.rank_pattern), ("alpha_pattern", tuning.alpha_pattern)):
        _check_patterns(field, patterns, layers)


def _check_patterns(field: str, patterns: Mapping[str, int], layers: Sequence[str]) -> None:
    """Check that every pattern fits a layer with an adapter, and no layer two of them.

    PEFT takes the first that fits, in an order that the file of the adapter does not keep.
    """
    taken: dict[str, str] = {}
    for key in patterns:
        fitting = [name for name in layers if fits_pattern(name, key)]
        if not fitting:
            raise _fits_nothing(field, key, layers)
        if twice := next((name for name in fitting if name in taken), None):
            raise ModelError(
                f"tuning.{field}: {taken[twice]!r} and {key!r} both fit {twice}.",
                remedy="Write them so that only one fits each layer: an adapter's file keeps no order of them.",
                code="unclear-pattern",
            )
        taken |= dict.fromkeys(fitting, key)


def _fits_nothing(field: str, name: str, layers: Collection[str]) -> ModelError:
    """Return the error for a ``name`` in ``field`` that none of the ``layers`` with an adapter has."""
    known = sorted({_last(layer) for layer in layers})
    near = closest(_last(name), known)
    meant = f"; did you mean {near}?" if near else ""
    return ModelError(
        f"tuning.{field} names {name!r}, which fits no layer with an adapter{meant}.",
        remedy=f"Use some of {', '.join(known)}.",
        code="no-target-modules",
    )


def _refuse_tied_ends(names: Sequence[str], usable: Sequence[str]) -> None:
    if names:
        raise ModelError(
            f"tuning.lora_target_modules names {', '.join(names)}, which shares its weights with the other end of "
            "this model: an adapter on one end alone cannot be merged or exported.",
            remedy=f"Use all-linear or some of {', '.join(usable)}; to train both ends as one, name them in "
            "tuning.modules_to_save.",
            code="tied-target",
        )


def _refuse_twice(model: PreTrainedModel, names: Sequence[str]) -> None:
    """Check that embeddings and head, of which some rows are trained, are not trained in another way too."""
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    for name in names:
        if any(model.get_submodule(name) is end for end in ends):
            raise ModelError(
                f"tuning.trainable_token_indices trains rows of {name}, which is trained in another way as well.",
                remedy="Leave it out of tuning.modules_to_save and tuning.lora_target_modules, or name no tokens.",
                code="unusable-tokens",
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
