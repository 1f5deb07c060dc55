"""Convert a GGUF file's vocabulary into the files of a Hugging Face tokenizer.

Only byte-level BPE ("gpt2" in the GGUF specification) is supported: tokens and merges are in the file, and the rule
that cuts text into words is named there and defined here.
"""

from __future__ import annotations

from typing import Any

from backend.errors import ModelError

_CONTROL, _USER_DEFINED = 3, 4  # GGUF token types

# How text is cut into words before merging, by the value of tokenizer.ggml.pre: the steps before the byte level, as
# tokenizer.json has them; without a splitting expression the byte level cuts words by GPT-2's own rule. The
# expressions are those of the published tokenizers.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


WORD_RULES: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [],
    "smollm": [{"type": "Digits", "individual_digits": True}],
    "llama-bpe": [_split(_LLAMA3)],
    "qwen2": [_split(_QWEN2)],
}


def tokenizer_files(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the contents of tokenizer.json, tokenizer_config.json and chat_template.jinja ("" if there is none).

    Raises ModelError ``unsupported-tokenizer`` for another kind of vocabulary or word rule.
    """
    kind, rule = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or rule not in WORD_RULES:
        raise ModelError(
            f"This GGUF file's tokenizer ({kind}, {rule}) cannot be read; ours are "
            f"gpt2 with one of {', '.join(WORD_RULES)}.",
            code="unsupported-tokenizer",
            remedy="Give the model's Hugging Face folder or id instead.",
        )
    return {
        "tokenizer.json": _tokenizer_json(metadata, rule),
        "tokenizer_config.json": _tokenizer_config(metadata),
        "chat_template.jinja": metadata.get("tokenizer.chat_template", ""),
    }


def special_token(metadata: dict[str, Any], role: str) -> int | None:
    """Return the id of the "bos", "eos", "unknown" or "padding" token; None if there is none."""
    token_id: int | None = metadata.get(f"tokenizer.ggml.{role}_token_id")
    return token_id


def _tokenizer_json(metadata: dict[str, Any], rule: str) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = [merge.split(" ", 1) for merge in metadata["tokenizer.ggml.merges"]]
    strays = [pair for pair in merges if not {*pair, "".join(pair)} <= vocab.keys()]
    if strays or len(vocab) != len(tokens):
        raise ValueError(f"a token is there twice or a merge makes none: {strays[:1]}")
    kinds = metadata.get("tokenizer.ggml.token_type", [])
    added = [
        _added_token(index, tokens[index], special=kind == _CONTROL)
        for index, kind in enumerate(kinds)
        if kind in {_CONTROL, _USER_DEFINED}
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer(rule),
        "post_processor": _post_processor(metadata),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def _added_token(index: int, content: str, *, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": index, "content": content, **flags}


def pre_tokenizer(rule: str) -> dict[str, Any]:
    """Return the pre-tokenizer of a byte-level BPE with one of ``WORD_RULES``, in the form of tokenizer.json."""
    before = WORD_RULES[rule]
    own = not any(step["type"] == "Split" for step in before)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": own}
    return {"type": "Sequence", "pretokenizers": [*before, byte_level]} if before else byte_level


def _post_processor(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return a post-processor that adds BOS and EOS to plain text if the file asks for it."""
    ids = {
        role: special_token(metadata, role)
        for role in ("bos", "eos")
        if metadata.get(f"tokenizer.ggml.add_{role}_token") and special_token(metadata, role) is not None
    }
    tokens = {role: metadata["tokenizer.ggml.tokens"][index] for role, index in ids.items()}
    around = {role: [{"SpecialToken": {"id": token, "type_id": 0}}] for role, token in tokens.items()}
    single = [*around.get("bos", []), {"Sequence": {"id": "A", "type_id": 0}}, *around.get("eos", [])]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}, *around.get("eos", [])],
        "special_tokens": {
            token: {"id": token, "ids": [ids[role]], "tokens": [token]} for role, token in tokens.items()
        },
    }


def _tokenizer_config(metadata: dict[str, Any]) -> dict[str, Any]:
    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: special_token(metadata, role) for name, role in roles.items()}
    tokens = metadata["tokenizer.ggml.tokens"]
    named = {name: tokens[index] for name, index in ids.items() if index is not None}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
