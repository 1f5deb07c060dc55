"""Compare the tokenizer of an export with that of training: every part of tokenizer.json, every setting."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from backend.core.model_files import GENERAL_TOKENIZER
from backend.core.tokenizer import load_tokenizer

SETTINGS = (
    *("unk_token", "bos_token", "eos_token", "sep_token", "pad_token", "cls_token", "mask_token"),
    *("extra_special_tokens", "model_max_length", "padding_side", "truncation_side"),
    *("clean_up_tokenization_spaces", "split_special_tokens"),
)
"""Settings of a loaded tokenizer that are not in tokenizer.json; the chat template is compared separately."""
_MODEL_INPUTS = ["input_ids", "attention_mask"]
_NEVER_WRITTEN = frozenset({"add_bos_token", "add_eos_token", "added_tokens_decoder"})
"""Keys of tokenizer_config.json that a base may have but an export has not: tokenizer.json covers them."""


def check_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield a sentence part for each difference between the tokenizer in ``folder`` and the trained one.

    Raises ModelError if it cannot be loaded.
    """
    found, wanted = load_tokenizer(folder), _parts(tokenizer.backend_tokenizer.to_str())
    if (found.chat_template or "") != (tokenizer.chat_template or ""):
        yield "its chat template differs from the one used in training"
    stored = _parts((folder / "tokenizer.json").read_text("utf-8"))
    loaded = _parts(found.backend_tokenizer.to_str())
    yield from dict.fromkeys([*_part_differences(wanted, stored), *_part_differences(wanted, loaded)])
    for name in SETTINGS:
        theirs, ours = getattr(found, name, None), getattr(tokenizer, name, None)
        if theirs != ours:
            yield f"its {name} is {theirs!r}, but {ours!r} in training"
    yield from _config_differences(folder, tokenizer)


def unknown_tokenizer_settings(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return a sentence part for each key of tokenizer_config.json that the trained tokenizer does not have."""
    extra = sorted(_config(folder).keys() - _known(tokenizer))
    return [f"tokenizer_config.json has the key {key}" for key in extra]


def check_ends(
    folder: Path,
    rules: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    named: frozenset[int] = frozenset(),
) -> Iterator[str]:
    """Yield a sentence part each for missing and for additional end tokens in generation_config.json.

    ``named`` are end tokens that the export names elsewhere.
    """
    listed = json.loads((folder / "generation_config.json").read_text("utf-8")).get("eos_token_id", [])
    found, ends = named | set(_listed(listed)), set(_listed(rules.eos_token_id))
    if missing := ends - found:
        yield f"the end tokens {tokenizer.convert_ids_to_tokens(sorted(missing))} are missing"
    if more := found - ends:
        known = tokenizer.convert_ids_to_tokens(sorted(each for each in more if 0 <= each < len(tokenizer)))
        yield f"answers also end with {known or sorted(more)}, which ended none in training"


def _listed(ids: int | list[int] | None) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def _config(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    return settings


def _known(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    own = {"tokenizer_class", "model_input_names", "chat_template", "additional_special_tokens"}
    return (own | {*SETTINGS} | {str(key) for key in tokenizer.init_kwargs}) - _NEVER_WRITTEN


def _config_differences(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield a sentence part for each key of tokenizer_config.json that would mislead other readers."""
    found = _config(folder)
    wanted = {"tokenizer_class": GENERAL_TOKENIZER, "model_input_names": _MODEL_INPUTS}
    if "chat_template" in found:
        wanted["chat_template"] = tokenizer.chat_template
    yield from (
        f"tokenizer_config.json has {key} {found.get(key)!r} instead of {value!r}"
        for key, value in wanted.items()
        if found.get(key) != value
    )


def _parts(text: str) -> dict[str, Any]:
    """Return the parts of tokenizer.json by name, those of its model included."""
    spec: dict[str, Any] = json.loads(text)
    model = spec.pop("model")
    return spec | {f"model's {key}": value for key, value in model.items()}


def _part_differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    mine, theirs = (_by_id(spec) for spec in (wanted, found))
    odd = sorted(index for index in mine.keys() | theirs.keys() if theirs.get(index) != mine.get(index))
    if odd:
        yield f"token {odd[0]} is {theirs.get(odd[0])!r}, but {mine.get(odd[0])!r} in training"
    ours, kept = ({each["content"]: each for each in spec["added_tokens"]} for spec in (wanted, found))
    lost = [content for content in ours if content not in kept]
    if lost:
        yield f"the added token {lost[0]} is lost ({len(lost)} of {len(ours)})"
    elif ours != kept:
        name = next(name for name in [*kept, *ours] if ours.get(name) != kept.get(name))
        yield f"the added token {name} differs from that of training"
    merges, read = wanted.get("model's merges") or [], found.get("model's merges") or []
    if merges != read:
        place = next(
            (i for i, pair in enumerate(zip(merges, read, strict=False)) if pair[0] != pair[1]), len(read)
        )
        yield f"its merges differ from number {place + 1} of {len(merges)} on"
    for part in sorted((wanted.keys() | found.keys()) - {"model's vocab", "added_tokens", "model's merges"}):
        if wanted.get(part) != found.get(part):
            yield f"the {part.replace('_', ' ')} of its tokenizer differs from that of training"


def _by_id(spec: Mapping[str, Any]) -> dict[int, str]:
    """Return tokens by id: the vocabulary (a mapping, or a list of (token, score) for Unigram) and added tokens."""
    vocab = spec.get("model's vocab") or {}
    tokens = (
        {index: token for token, index in vocab.items()}
        if isinstance(vocab, dict)
        else {index: str(entry) for index, entry in enumerate(vocab)}
    )
    return tokens | {each["id"]: each["content"] for each in spec["added_tokens"]}
