"""Write the JSON files beside a model's weights so that transformers 4 and other programs read them too.

transformers 5 renamed keys: ``rope_theta`` and ``rope_scaling`` became ``rope_parameters``, ``torch_dtype`` became
``dtype``, the class ``PreTrainedTokenizerFast`` became ``TokenizersBackend``. A reader that does not find a key uses
its default without a warning, so both names are written.

Source of the classic names: the configuration classes of transformers 4.57.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from backend.utils.warning_utils import unwarned

GENERAL_TOKENIZER = "PreTrainedTokenizerFast"
"""The class that reads any tokenizer.json, under the name that every version of transformers knows."""

_PRIVATE = frozenset({"is_local", "local_files_only", "backend", "name_or_path", "tokenizer_file"})
"""Keys by which transformers records how it loaded a tokenizer on this machine."""

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Generation settings without effect unless ``do_sample`` is on; transformers 4 then rejects them as invalid."""

_OWN_NAMES = {
    "gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    "gpt_neox_japanese": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    "modernbert-decoder": {"rope_theta": "global_rope_theta", "rope_local_base_freq": "local_rope_theta"},
}
"""Classic names of families that had their own, by model_type."""

_PHI3_SCALING = ("type", "short_factor", "long_factor")
"""All that a Phi-3 configuration of transformers 4 accepts in ``rope_scaling``."""

_MISREAD = (KeyError, ValueError, TypeError, AttributeError, StrictDataclassError)
"""Exceptions of configuration classes on keys that they cannot read."""


def write_config(config: PretrainedConfig, folder: Path, *, dtype: str) -> None:
    """Write ``config.json`` into ``folder`` under classic and new names; ``dtype`` is that of the stored weights.

    Classic names are added only if transformers reads the same settings from them, alone and beside the new ones:
    model families newer than version 5 never had any.
    """
    config.save_pretrained(folder)
    file = folder / "config.json"
    settings = json.loads(file.read_text("utf-8"))
    both = classic_settings(config, settings) or settings
    _write(file, both | {"dtype": dtype, "torch_dtype": dtype})


def classic_settings(
    config: PretrainedConfig, settings: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Return the settings of ``config`` under both names; None if transformers cannot read the classic ones.

    ``settings`` is its serialised form, if the caller has it.
    """
    settings, kind = settings or json.loads(config.to_json_string()), type(config)
    both = with_classic_names(settings)
    wanted, *others = (_read(kind, names) for names in (settings, both, without_new_names(both)))
    same = all(
        other.get(name) == value for other in others for name, value in wanted.items() if name != "dtype"
    )
    return both if same else None


def with_classic_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` with the names that transformers 4 reads added, in nested configurations too."""
    both = {
        name: with_classic_names(part) if name.endswith("_config") and isinstance(part, Mapping) else part
        for name, part in settings.items()
    }
    rope = settings.get("rope_parameters")
    if not isinstance(rope, Mapping):
        return both
    classic, family = _classic_positions(rope), str(settings.get("model_type"))
    if family == "phi3" and (scaling := classic["rope_scaling"]):
        kinds = scaling | {"type": scaling["rope_type"]}
        classic["rope_scaling"] = {name: kinds[name] for name in _PHI3_SCALING if name in kinds}
    return both | {_OWN_NAMES.get(family, {}).get(name, name): value for name, value in classic.items()}


def without_new_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` as a reader of classic names sees them."""
    return {
        name: without_new_names(part) if isinstance(part, Mapping) else part
        for name, part in settings.items()
        if name not in {"rope_parameters", "dtype"}
    }


def parse_settings(text: str) -> dict[str, Any]:
    """Parse a config.json; transformers writes infinity and NaN as objects with the one key ``__float__``."""

    def plain(part: dict[str, Any]) -> Any:
        return float(part["__float__"]) if part.keys() == {"__float__"} else part

    settings: dict[str, Any] = json.loads(text, object_hook=plain)
    return settings


def effective(config: PretrainedConfig) -> dict[str, Any]:
    """Return all settings of a configuration as JSON values, including those that transformers derives."""
    settings: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=str))
    return _derived(settings)


def _derived(settings: dict[str, Any]) -> dict[str, Any]:
    """Return ``settings`` with rope settings in one spelling: without the old name "type", with a longrope factor."""
    nested = {name: _derived(part) for name, part in settings.items() if isinstance(part, dict)}
    derived = settings | nested
    if derived.get("rope_type") and "type" in derived:
        del derived["type"]
    rope = derived.get("rope_parameters") or {}
    if rope.get("rope_type") == "longrope" and (original := rope.get("original_max_position_embeddings")):
        rope.setdefault("factor", derived["max_position_embeddings"] / original)
    return derived


def without_classic_names(
    settings: Mapping[str, Any], plain: Mapping[str, Any], both: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ``settings`` as a reader of new names sees them: without names of ``both`` that ``plain`` lacks."""
    kept = {name: part for name, part in settings.items() if name in plain or name not in both}
    return kept | {
        name: without_classic_names(part, plain[name], both[name])
        for name, part in kept.items()
        if name.endswith("_config") and isinstance(part, Mapping) and isinstance(plain.get(name), Mapping)
    }


def write_generation_config(rules: GenerationConfig, folder: Path) -> None:
    """Write ``generation_config.json`` into ``folder`` without settings that have no effect."""
    # not save_pretrained: it rejects settings that published models have
    written = json.loads(rules.to_json_string())
    idle = () if written.get("do_sample") else _SAMPLING
    _write(
        folder / "generation_config.json",
        {name: value for name, value in written.items() if name not in idle},
    )


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and the chat template into ``folder``.

    The general class is named, since tokenizer.json alone decides the ids: every reader then gets the same.
    """
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text("utf-8"))
    kept = {name: value for name, value in settings.items() if name not in _PRIVATE}
    if isinstance(kept.get("extra_special_tokens"), list):  # a list is the classic form of another name
        kept["additional_special_tokens"] = kept.pop("extra_special_tokens")
    names = {"tokenizer_class": GENERAL_TOKENIZER, "model_input_names": ["input_ids", "attention_mask"]}
    _write(file, kept | names)


def _classic_positions(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``rope_parameters`` under classic names, which could scale only full-attention layers."""
    kinds = {kind: part for kind, part in rope.items() if isinstance(part, Mapping)}
    full = kinds.get("full_attention", {}) if kinds else rope
    own = ("rope_theta", "partial_rotary_factor")
    classic = {name: full[name] for name in own if name in full}
    if "rope_theta" in (local := kinds.get("sliding_attention", {})):
        classic["rope_local_base_freq"] = local["rope_theta"]
    scaling = {name: value for name, value in full.items() if name not in own}
    return classic | {"rope_scaling": scaling if scaling.get("rope_type", "default") != "default" else None}


def _read(kind: type[PretrainedConfig], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` as the configuration class ``kind`` reads them; {} if it cannot."""
    try:
        with unwarned():
            return effective(kind.from_dict(deepcopy(dict(settings))))
    except _MISREAD:
        return {}


def _write(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
