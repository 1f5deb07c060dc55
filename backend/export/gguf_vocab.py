"""Convert a Hugging Face tokenizer to the ``tokenizer.*`` keys of a GGUF file.

Only byte-level BPE is supported, as in Llama 3, Qwen and SmolLM. The rule that splits text into words is recognised
by tokenizer.json, never guessed.

Source of the keys: the GGUF specification (ggml repository, docs/gguf.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType
from transformers import PreTrainedTokenizerBase

from backend.core.gguf.tokenizer import WORD_RULES, pre_tokenizer
from backend.core.tokenizer import stop_token_ids
from backend.errors import ExportError

_ROLES = ("bos", "eos", "unk", "sep", "pad", "mask")


@dataclass(frozen=True)
class Vocabulary:
    """The content of a GGUF file's tokenizer keys; ``tokens`` and ``kinds`` have an entry per embedding row."""

    word_rule: str
    tokens: list[str]
    kinds: list[int]
    add_bos: bool
    add_eos: bool
    turn_ends: list[int]
    special: SpecialVocab

    def write(self, writer: GGUFWriter) -> None:
        """Add the keys to a GGUF file."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.word_rule)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.kinds)
        self.special.add_to_gguf(writer, quiet=True)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        for add, token_id in zip(
            (writer.add_eot_token_id, writer.add_eom_token_id), self.turn_ends, strict=False
        ):
            add(token_id)


def read_vocabulary(
    tokenizer: PreTrainedTokenizerBase, folder: Path, *, rows: int, eos_token_ids: int | Iterable[int] | None
) -> Vocabulary:
    """Return the GGUF vocabulary of ``tokenizer``, also saved in ``folder``, for ``rows`` embeddings.

    ``eos_token_ids`` are those of the model's generation config. Raises ExportError (``unsupported-tokenizer``).
    """
    word_rule = find_word_rule(tokenizer)
    tokens, kinds = _tokens(tokenizer, rows)
    special = SpecialVocab(folder, load_merges=True, n_vocab=rows)
    special.add_special_token = {}  # set below, from what the tokenizer does
    ids = {
        role: getattr(tokenizer, f"{role}_token_id") for role in _ROLES
    }  # the package finds added tokens only
    special.special_token_ids = {role: index for role, index in ids.items() if index is not None}
    add_bos, add_eos = adds_tokens(tokenizer)
    ends = stop_token_ids(tokenizer, eos_token_ids) - {tokenizer.eos_token_id}
    return Vocabulary(
        word_rule,
        tokens,
        kinds,
        add_bos=add_bos,
        add_eos=add_eos,
        turn_ends=sorted(ends),
        special=special,
    )


def adds_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Return whether ``tokenizer`` puts its first token before a text, and its end token behind it."""
    around = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True).ids
    first = tokenizer.bos_token_id is not None and around[0] == tokenizer.bos_token_id
    return first, around[-1] == tokenizer.eos_token_id


def find_word_rule(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return llama.cpp's name for the way ``tokenizer`` splits text into words before merging.

    Raises ExportError (``unsupported-tokenizer``) if there is no name that we know.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    model, steps = spec["model"], _steps(spec["pre_tokenizer"])
    known = {name: _steps(pre_tokenizer(name)) for name in WORD_RULES}
    name = next((name for name, rule in known.items() if rule == steps), None)
    if model["type"] != "BPE" or model.get("byte_fallback") or name is None:
        raise ExportError(
            f"GGUF export does not support this tokenizer ({model['type']}), or its rule for splitting words.",
            remedy=f"It supports byte-level BPE with the rules {', '.join(known)}. Export with `to=merged` instead.",
            code="unsupported-tokenizer",
        )
    return name


def _steps(spec: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the steps of a pre-tokenizer in order, without settings that change only offsets."""
    parts = (spec or {}).get("pretokenizers", [spec] if spec else [])
    return [
        {k: v for k, v in part.items() if k != "trim_offsets" and (k, v) != ("invert", False)}
        for part in parts
    ]


def _tokens(tokenizer: PreTrainedTokenizerBase, rows: int) -> tuple[list[str], list[int]]:
    """Return token texts and GGUF token types by id; rows without a token are named ``[PAD…]`` and unused."""
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    if max(names) >= rows:
        raise ExportError(
            f"The tokenizer has token {max(names)}, but the model has only {rows} embeddings.",
            remedy="Train again with a tokenizer that fits the model.",
            code="unsupported-tokenizer",
        )
    added = tokenizer.added_tokens_decoder
    tokens, kinds = [], []
    for index in range(rows):
        tokens.append(names.get(index, f"[PAD{index}]"))
        if index not in names:
            kinds.append(TokenType.UNUSED)
        elif index in added:
            kinds.append(TokenType.CONTROL if _is_control(added[index]) else TokenType.USER_DEFINED)
        else:
            kinds.append(TokenType.NORMAL)
    return tokens, kinds


def _is_control(token: Any) -> bool:
    """Return whether an added token is a control token: a special one, or spelled ``<|…|>``."""
    return bool(token.special) or (token.content.startswith("<|") and token.content.endswith("|>"))
