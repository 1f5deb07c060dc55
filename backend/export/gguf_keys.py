"""Compare the keys of a GGUF file with the trained model.

Settings are read by our own GGUF import, which shares no code with the writer. llama.cpp reads the keys of
``general``, ``tokenizer`` and the architecture; other keys change nothing, nor do names and descriptions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from backend.core.gguf.convert import ROPE_FREQS, llama3_factors, unknown_keys
from backend.core.gguf.file import GgufFile
from backend.core.model_files import effective
from backend.export.gguf_vocab import find_word_rule
from backend.export.gguf_writer import FILE_TYPES, YARN_DEFAULTS
from backend.export.settings import differences, same

END_KEYS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
_LISTS = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges")
_COMPARED_ELSEWHERE = frozenset({"bos_token_id", "eos_token_id", "pad_token_id", "dtype"})
"""Settings not compared by key: tokens are compared with the tokenizer, precision tensor by tensor."""


def readable_model(file: GgufFile) -> GgufFile:
    """Return ``file`` without the parts that our import refuses: unknown keys and the tensor of rope factors."""
    odd = set(unknown_keys(file))
    metadata = {key: value for key, value in file.metadata.items() if key not in odd}
    return replace(
        file, metadata=metadata, tensors={k: v for k, v in file.tensors.items() if k != ROPE_FREQS}
    )


def unknown_gguf_keys(file: GgufFile, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return a sentence part for each key that llama.cpp may read and Tunesmith does not know."""
    known = {*_LISTS, *END_KEYS, *_token_keys(tokenizer)}
    odd = [key for key in file.metadata if key.startswith("tokenizer.") and key not in known]
    return [f"{file.path.name} has the key {key}" for key in sorted([*odd, *unknown_keys(file)])]


def check_keys(
    file: GgufFile,
    found: Mapping[str, Any],
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    precision: str | None = None,
) -> Iterator[str]:
    """Yield a sentence part for each key of ``file`` that differs from the trained model.

    ``found`` is the config.json that our import makes of it, ``precision`` the one the file should be written in.
    """
    yield from _settings(file, found, config)
    wanted = {"general.type": "model", **_token_keys(tokenizer)}
    if precision in FILE_TYPES:
        wanted["general.file_type"] = int(FILE_TYPES[precision])
        wanted["general.quantization_version"] = gguf.GGML_QUANT_VERSION
    for key, value in wanted.items():
        actual = file.metadata.get(key)
        if actual != value and key == "tokenizer.chat_template":
            yield "its chat template differs from the one used in training"
        elif actual != value:
            yield f"{key} is {actual!r}, but {value!r} in training"
    yield from _tokens(file, tokenizer)


def _settings(file: GgufFile, found: Mapping[str, Any], config: PretrainedConfig) -> Iterator[str]:
    wanted = effective(config)
    wanted.setdefault("head_dim", config.hidden_size // config.num_attention_heads)
    rope = wanted["rope_parameters"]
    wanted["rope_parameters"] = {
        k: v for k, v in rope.items() if k not in YARN_DEFAULTS or v not in {YARN_DEFAULTS[k], None}
    }
    carried = {key: value for key, value in found.items() if key in wanted and key not in _COMPARED_ELSEWHERE}
    tensor = file.tensors.get(ROPE_FREQS)
    if rope.get("rope_type") == "llama3" and tensor is not None:
        stored, right = tensor.rows.view(np.float32).ravel(), llama3_factors(config)
        if len(stored) != len(right) or not torch.allclose(right, torch.from_numpy(stored.copy()), rtol=1e-5):
            yield f"{ROPE_FREQS} scales positions differently from the trained model"
        carried["rope_parameters"] = rope | {"rope_theta": found["rope_parameters"]["rope_theta"]}
    elif tensor is not None:
        yield f"{ROPE_FREQS} scales positions, which the trained model does not"
    for key, ours, theirs in differences({key: wanted[key] for key in carried}, carried):
        yield f"{key} is {theirs}, but {ours} in the trained model"


def _token_keys(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the tokenizer keys that the file must have; None for those that it must not have."""
    around = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True).ids
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
        "seperator": tokenizer.sep_token_id,  # misspelled in the GGUF specification
        "mask": tokenizer.mask_token_id,
    }
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": find_word_rule(tokenizer),
        **{f"tokenizer.ggml.{role}_token_id": index for role, index in ids.items()},
        "tokenizer.ggml.add_bos_token": tokenizer.bos_token_id is not None
        and around[0] == tokenizer.bos_token_id,
        "tokenizer.ggml.add_eos_token": around[-1] == tokenizer.eos_token_id,
        "tokenizer.chat_template": tokenizer.chat_template,
    }


def _tokens(file: GgufFile, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield a sentence part for each difference in the vocabulary: tokens, their kinds, merges."""
    tokens = file.metadata["tokenizer.ggml.tokens"]
    kinds = file.metadata.get("tokenizer.ggml.token_type", [gguf.TokenType.NORMAL] * len(tokens))
    added = tokenizer.added_tokens_decoder
    theirs = dict(enumerate(tokens))
    mine = {index: token for token, index in tokenizer.get_vocab().items()}
    odd = sorted(index for index, token in mine.items() if theirs.get(index) != token)
    if odd:
        yield f"token {odd[0]} is {theirs.get(odd[0])!r}, but {mine[odd[0]]!r} in training"
    kinds_of_added = {gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED}
    wanted = [_kind(added.get(index), used=index in mine) for index in range(len(tokens))]
    lost = [
        str(token) for i, token in sorted(added.items()) if {*kinds[i : i + 1]}.isdisjoint(kinds_of_added)
    ]
    if lost:
        yield f"the added token {lost[0]} is lost ({len(lost)} of {len(added)})"
    elif kinds != wanted:
        place = next((i for i, kind in enumerate(wanted) if kinds[i : i + 1] != [kind]), len(wanted))
        yield f"token {place} has another type (control, normal, unused) than in training"
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    if file.metadata["tokenizer.ggml.merges"] != pairs:
        yield f"its merges differ from the {len(pairs)} of training"


def _kind(added: Any, *, used: bool) -> gguf.TokenType:
    """Return the GGUF type of a token: special ones, and those spelled ``<|…|>``, are control tokens."""
    if added is None:
        return gguf.TokenType.NORMAL if used else gguf.TokenType.UNUSED
    marked = added.content.startswith("<|") and added.content.endswith("|>")
    return gguf.TokenType.CONTROL if added.special or marked else gguf.TokenType.USER_DEFINED


def check_adapter_keys(file: GgufFile, adapter: Mapping[str, Any], config: PretrainedConfig) -> Iterator[str]:
    """Yield a sentence part for each key of an adapter's GGUF file that differs from the plain ``adapter``."""
    wanted = {
        "general.type": "adapter",
        "general.architecture": config.model_type,
        "adapter.type": "lora",
        "adapter.lora.alpha": float(adapter["lora_alpha"]),
    }
    for key, value in wanted.items():
        if not same(value, file.metadata.get(key)):
            yield f"{key} is {file.metadata.get(key)!r}, but {value!r} in training"
