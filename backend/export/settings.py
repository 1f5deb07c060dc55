"""Compare the settings of an export with the trained model's: config.json and generation_config.json, key by key.

Every key counts except those listed here with a reason; a list of the keys that matter would miss new ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from transformers import GenerationConfig, PretrainedConfig

from backend.core.model_files import (
    classic_settings,
    effective,
    parse_settings,
    without_classic_names,
    without_new_names,
)
from backend.utils.warning_utils import unwarned

WITHOUT_MEANING = {
    "_name_or_path": "where somebody loaded it from",
    "_from_model_config": "how transformers came by the rules",
    "use_cache": "changes the speed of an answer and not the answer",
    "initializer_range": "where the training of a new model begins",
    "initializer_factor": "where the training of a new model begins",
    "pretraining_tp": "how products were cut up in pre-training; the numbers are the same",
    "chunk_size_feed_forward": "how much is computed at once",
    "gradient_checkpointing": "memory in training",
    "router_aux_loss_coef": "a part of the loss in training",
    "output_attentions": "what is returned beside the answer",
    "output_hidden_states": "what is returned beside the answer",
    "output_scores": "what is returned beside the answer",
    "output_logits": "what is returned beside the answer",
    "return_dict_in_generate": "how it is returned",
    "id2label": "of classifiers",
    "label2id": "of classifiers",
    "problem_type": "of classifiers",
}
"""Keys that change no answer, and why.

Not among them: return_dict and output_router_logits, on other values of which some readers fail.
"""
_DROPOUT = ("dropout", "pdrop", "_drop")
"""Parts of names of dropout settings: outside training nothing is dropped."""

_STORED = ("dtype", "torch_dtype")
_VERSION = re.compile(r"\d+(\.\d+)*((a|b|rc|\.dev|\.post)\d+)?")


_NEUTRAL: dict[str, Any] = {
    **dict.fromkeys(("do_sample", "early_stopping", "remove_invalid_values", "renormalize_logits"), False),
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), 1),
    **dict.fromkeys(("temperature", "top_p", "typical_p", "repetition_penalty", "length_penalty"), 1.0),
    **dict.fromkeys(("encoder_repetition_penalty", "guidance_scale"), 1.0),
    **dict.fromkeys(
        ("min_length", "no_repeat_ngram_size", "diversity_penalty", "epsilon_cutoff", "eta_cutoff"), 0
    ),
}
"""Values of generation rules that mean the same as leaving the rule out."""


def has_meaning(key: str) -> bool:
    """Return whether a key of config.json or generation_config.json may change an answer."""
    return key not in WITHOUT_MEANING and not any(part in key for part in _DROPOUT)


def check_config(file: Path, config: PretrainedConfig, stored: str | None) -> Iterator[str]:
    """Yield a sentence part for each setting in the config.json ``file`` that differs from the trained model.

    The file is read as transformers reads it, and as readers do that know only the new names of settings or only the
    classic ones. ``stored`` is the precision of the weights, None if it is not known.
    """
    plain = json.loads(config.to_json_string())
    both = classic_settings(config, plain)
    written = parse_settings(json.dumps(both or plain))
    try:
        raw = parse_settings(file.read_text("utf-8"))
        views = {"": raw, " under its new name": without_classic_names(raw, plain, written)}
        if both:
            views[" under its classic name"] = without_new_names(raw)
        with unwarned():
            read = {who: effective(type(config).from_dict(deepcopy(view))) for who, view in views.items()}
    except Exception as error:  # noqa: BLE001 - a configuration class may raise anything on a damaged file
        yield f"{file.name} cannot be read: {str(error).strip().splitlines()[0]}"
        return
    for key in _STORED:
        if stored and raw.get(key, stored) != stored:
            yield f"{key} is {raw[key]}, but the weights are stored as {stored}"
    wanted = effective(config) | {"model_type": config.model_type}
    pairs = {who: (wanted, found | {"model_type": raw.get("model_type")}) for who, found in read.items()}
    pairs[" as written"] = ({key: written[key] for key in raw.keys() & written.keys()}, raw)
    yield from _each_once(pairs)


def _each_once(pairs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Iterator[str]:
    """Yield a sentence part for each key that differs in one of the (wanted, found) pairs, each key once.

    The keys of ``pairs`` tell in which view of the file the difference shows.
    """
    seen: set[str] = set()
    for view, (wanted, found) in pairs.items():
        for key, ours, theirs in differences(wanted, found):
            if key not in seen:
                seen.add(key)
                yield f"{key} is {_short(theirs)}{view}, but {_short(ours)} in the trained model"


def unknown_settings(file: Path, config: PretrainedConfig) -> list[str]:
    """Return a sentence part for each key of the config.json ``file`` that the trained model does not have."""
    known = effective(config).keys() | (classic_settings(config) or {}).keys() | set(_STORED)
    raw = json.loads(file.read_text("utf-8"))
    return [f"{file.name} has the key {key}" for key in sorted(raw.keys() - known) if has_meaning(key)]


def differences(
    wanted: Mapping[str, Any], found: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, wanted, found) for every meaningful key of ``wanted`` with another value, at any depth."""
    for key, value in wanted.items():
        other = found.get(key)
        if not has_meaning(key) or (not path and key in _STORED) or (key == "architectures" and not value):
            continue
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            both = dict.fromkeys([*value, *other])
            yield from differences({name: value.get(name) for name in both}, other, f"{path}{key}.")
        elif not _agree(key, value, other):
            yield f"{path}{key}", value, other


def _agree(key: str, wanted: Any, found: Any) -> bool:
    """Return whether a setting is the same; ``transformers_version`` may be any valid version, or absent."""
    if key == "transformers_version":
        return found is None or _VERSION.fullmatch(str(found)) is not None
    return same(wanted, found)


def same(one: Any, other: Any) -> bool:
    """Return whether two values of a setting are equal, numbers within the rounding of float32."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return isinstance(one, bool) == isinstance(other, bool) and bool(
            np.isclose(one, other, rtol=1e-6, atol=0.0)
        )
    return bool(one == other)


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def check_rules(file: Path, wanted: GenerationConfig) -> Iterator[str]:
    """Yield a sentence part for each rule of the generation_config.json ``file`` that is not the wanted one.

    End tokens are compared by ``vocabulary.check_ends``.
    """
    found = json.loads(file.read_text("utf-8"))
    for key, value in wanted.to_dict().items():
        actual = found.get(key)
        neutral = value is None and key in _NEUTRAL and same(actual, _NEUTRAL[key])
        if key != "eos_token_id" and has_meaning(key) and not neutral and not _agree(key, value, actual):
            yield f"{file.name} has {key} {_short(actual)} instead of {_short(value)}"


def unknown_rules(file: Path, wanted: GenerationConfig) -> list[str]:
    """Return a sentence part for each key of the generation_config.json ``file`` unknown to transformers."""
    known = wanted.to_dict().keys()
    found = json.loads(file.read_text("utf-8"))
    return [f"{file.name} has the key {key}" for key in sorted(found.keys() - known) if has_meaning(key)]
