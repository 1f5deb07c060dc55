"""Real tiny models and tokenizers, built in code: the classes and files of the big ones, in milliseconds.

Nothing here touches the network or the disk, except the functions that are given a folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging as transformers_logging

Family = Literal["chatml", "llama3", "gemma", "mistral", "qwen3", "base"]
Architecture = Literal["llama", "qwen2", "qwen3", "gpt2"]

FAMILIES: tuple[Family, ...] = get_args(Family)
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

_CORPUS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Which store section does this food belong to? Bratwurst, pork. Meat and sausages!",
    "user assistant system question answer hello world yes no one two three",
    "def add(a, b):\n    return a + b\n\n0123456789 {'key': [1, 2.5]}\n",
    "1. one\n\n2. two!\n\n\n    three  four\n\n        five\n\n\n    six\n\n" * 4,
)

_CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe brief and kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

_GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role here') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must take turns, user first') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

_MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant speak here') }}{% endif %}{% endfor %}"
)

# Thinking blocks of turns before the last question are dropped; the newest answer always shows one.
_QWEN3 = (
    "{% set ns = namespace(last=-1) %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{% set parts = message['content'].split('</think>') %}"
    "{% set answer = parts[-1].lstrip('\n') %}"
    "{% set thought = parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 else '' %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% if loop.index0 > ns.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    "{{ answer }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ '\n<tool_call>' + call['function'] | tojson + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# family → (special tokens, bos, eos, chat template)
_FAMILIES: dict[str, tuple[tuple[str, ...], str | None, str, str | None]] = {
    "chatml": (("<|im_start|>", "<|im_end|>"), "<|im_start|>", "<|im_end|>", _CHATML),
    "llama3": (
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>",
        "<|end_of_text|>",
        _LLAMA3,
    ),
    "gemma": (("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", _GEMMA),
    "mistral": (("<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>", _MISTRAL),
    "qwen3": (("<|endoftext|>", "<|im_start|>", "<|im_end|>"), None, "<|im_end|>", _QWEN3),
    "base": (("<|endoftext|>",), None, "<|endoftext|>", None),
}


def tiny_tokenizer(family: Family = "chatml") -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens with a chat template of ``family`` ("base" has none); a fresh copy."""
    special, bos, eos, template = _FAMILIES[family]
    backend = Tokenizer.from_str(_trained_bpe(special, split=family in {"llama3", "qwen3"}))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer


def tiny_model(
    architecture: Architecture = "llama", *, vocab_size: int = 512, seed: int = 0, **overrides: Any
) -> PreTrainedModel:
    """A random two-layer model in fp32 and eval mode; ``overrides`` go to its config."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match architecture:
            case "llama":
                return LlamaForCausalLM(LlamaConfig(**_sizes(vocab_size) | overrides)).eval()
            case "qwen2":
                return Qwen2ForCausalLM(Qwen2Config(**_sizes(vocab_size) | overrides)).eval()
            case "qwen3":
                return Qwen3ForCausalLM(
                    Qwen3Config(**_sizes(vocab_size) | {"head_dim": 8} | overrides)
                ).eval()
            case "gpt2":
                sizes = {
                    "n_embd": 32,
                    "n_layer": 2,
                    "n_head": 4,
                    "n_positions": 512,
                    "vocab_size": vocab_size,
                }
                return GPT2LMHeadModel(GPT2Config(**sizes | overrides)).eval()


def tiny_model_folder(
    folder: Path,
    *,
    family: Family = "chatml",
    architecture: Architecture = "llama",
    seed: int = 0,
    **overrides: Any,
) -> Path:
    """``folder`` with a tiny model and its tokenizer in Hugging Face layout."""
    tokenizer = tiny_tokenizer(family)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = tiny_model(architecture, vocab_size=len(tokenizer), seed=seed, **(ids | overrides))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars on a test's screen."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        (transformers_logging.enable_progress_bar if shown else transformers_logging.disable_progress_bar)()


def _sizes(vocab_size: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }


# The word rule of the Llama 3 and Qwen tokenizers.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def _trained_bpe(special: tuple[str, ...], *, split: bool) -> str:
    """A trained tokenizer as JSON; training takes a few milliseconds and happens once a family."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_SPLIT), "isolated"), byte_level])
        if split
        else byte_level
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer.to_str()


def corpus() -> tuple[str, ...]:
    """The texts that tiny tokenizers are trained on."""
    return _CORPUS


def chat_template() -> str:
    """A ChatML template."""
    return _CHATML
