"""Tiny models of the families that people export today, with tokenizers built like theirs, as folders."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from backend.core.gguf.tokenizer import WORD_RULES
from backend.core.model_files import write_config
from tests.families import tiny_config
from tests.tiny import chat_template, corpus, quiet_transformers

BLOCK = 256
"""Width of the models: rows divide into the blocks of K-quants."""
_SIZES = {
    "hidden_size": BLOCK,
    "n_embd": BLOCK,
    "intermediate_size": BLOCK,
    "head_dim": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "n_head": 4,
    "max_position_embeddings": 512,
    "n_positions": 512,
    "sliding_window": 64,
    "query_pre_attn_scalar": 64,
    "moe_intermediate_size": BLOCK,
    "shared_expert_intermediate_size": BLOCK,
    "shared_intermediate_size": BLOCK,
    "initializer_range": 0.03,
}
BEGINNING, END, TURN_END = "<|bos|>", "<|eos|>", "<|im_end|>"


@dataclass(frozen=True)
class Words:
    """How a tokenizer is built: ``rule`` is llama.cpp's name of a rule for words, or "spm" for SentencePiece.

    ``prefix``: a space is put before a text; ``bos``: a first token is.
    """

    rule: str
    prefix: bool = False
    bos: bool = False


GEMMA = Words("spm", bos=True)
MISTRAL = Words("spm", prefix=True, bos=True)
PHI3 = Words("spm", prefix=True)
LLAMA3 = Words("llama-bpe", bos=True)
QWEN = Words("qwen2")
GPT2 = Words("gpt-2")
SMOLLM = Words("smollm")


@dataclass(frozen=True)
class Made:
    """A family as people know it (``name``), its ``model_type``, its tokenizer, and what is its own."""

    name: str
    family: str
    words: Words
    settings: dict[str, Any] = field(default_factory=dict)


def build_tokenizer(words: Words) -> PreTrainedTokenizerFast:
    """A tokenizer of about 500 tokens with a ChatML template."""
    backend = Tokenizer.from_str(_pieces(words.prefix) if words.rule == "spm" else _byte_level(words.rule))
    if words.bos:
        beginning = backend.token_to_id(BEGINNING)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BEGINNING} $A", pair=f"{BEGINNING} $A $B", special_tokens=[(BEGINNING, beginning)]
        )
    names = {"bos_token": BEGINNING} if words.bos else {}
    unknown = {"unk_token": "<unk>"} if words.rule == "spm" else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=TURN_END, pad_token=END, **names, **unknown
    )
    tokenizer.chat_template = ("{{ bos_token }}" if words.bos else "") + chat_template()
    return tokenizer


_SPECIAL = (BEGINNING, END, "<|im_start|>", TURN_END)


@cache
def _byte_level(rule: str) -> str:
    tokenizer = Tokenizer(models.BPE())
    steps = [
        pre_tokenizers.Split(Regex(step["pattern"]["Regex"]), "isolated")
        if step["type"] == "Split"
        else pre_tokenizers.Digits(individual_digits=True)
        for step in WORD_RULES[rule]
    ]
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule in {"gpt-2", "smollm"})
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, own]) if steps else own
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return str(tokenizer.to_str())


@cache
def _pieces(prefix: bool) -> str:
    """A tokenizer.json as converted from SentencePiece: pieces with ▁, unknown characters as bytes."""
    spaced = [text.replace(" ", "▁") for text in corpus()]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁]+"), "isolated")
    learner.train_from_iterator(spaced, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    found = sorted(learner.get_vocab().items(), key=lambda entry: entry[1])
    names = ["<unk>", *_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *(piece for piece, _ in found)]
    vocab = {name: index for index, name in enumerate(dict.fromkeys(names))}
    pairs = [
        (piece[:cut], piece[cut:])
        for piece, _ in found
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=pairs, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    steps = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence([*([normalizers.Prepend("▁")] if prefix else []), *steps])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _SPECIAL])
    return str(tokenizer.to_str())


def build_model(made: Made, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A model of ``made`` with random weights that differ enough for a wrong one to show."""
    ids = {
        "vocab_size": len(tokenizer),
        "vocab_size_per_layer_input": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = tiny_config(made.family, **_SIZES | ids | made.settings)
        for name, value in made.settings.items():  # what published configurations say besides
            setattr(config, name, value)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).float().eval()
        with torch.no_grad():
            for part in model.parameters():
                if part.ndim == 1:
                    part.add_(0.05 * torch.randn(part.shape))
    return model


def build_folder(folder: Path, made: Made) -> Path:
    """``folder`` with a tiny model of ``made`` and its tokenizer, as published models are."""
    tokenizer = build_tokenizer(made.words)
    model = build_model(made, tokenizer)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    with quiet_transformers():
        model.save_pretrained(folder)
    write_config(model.config, folder, dtype="float32")
    tokenizer.save_pretrained(folder)
    return folder


FAMILIES = (
    Made("Llama 3", "llama", LLAMA3),
    Made("Qwen 2.5", "qwen2", QWEN),
    Made("Qwen 3", "qwen3", QWEN),
    Made("Gemma 3 (text)", "gemma3_text", GEMMA),
    Made("Mistral", "mistral", MISTRAL, {"sliding_window": None}),
    Made("Phi 3", "phi3", PHI3, {"sliding_window": None}),
    Made("Phi 4 mini", "phi3", LLAMA3, {"sliding_window": None, "tie_word_embeddings": True}),
    Made("Granite", "granite", GPT2, {"logits_scaling": 4.0, "residual_multiplier": 0.5}),
    Made("SmolLM3", "smollm3", LLAMA3),
    Made("SmolLM2", "llama", SMOLLM, {"tie_word_embeddings": True}),
    Made("Gemma", "gemma", GEMMA),
    Made("Gemma 2", "gemma2", GEMMA),
    Made("Gemma 4 (text)", "gemma4_text", GEMMA),
    Made("LFM2", "lfm2", LLAMA3),
    Made("OLMo 2", "olmo2", GPT2),
    Made("OLMo 3", "olmo3", GPT2),
    Made("Ministral 3", "ministral3", LLAMA3),
    Made("Phi 2", "phi", GPT2),
    Made("GPT-2", "gpt2", GPT2),
    Made("GPT-NeoX", "gpt_neox", GPT2),
    Made("Falcon H1", "falcon_h1", LLAMA3, {"head_dim": 64}),
    Made("StableLM", "stablelm", GPT2),
    Made("StarCoder2", "starcoder2", GPT2),
    Made("Cohere", "cohere", LLAMA3),
    Made("Cohere 2", "cohere2", LLAMA3, {"rotary_pct": 1.0}),
    Made("GLM 4", "glm4", LLAMA3),
    Made("EXAONE 4", "exaone4", LLAMA3),
    Made("Hunyuan", "hunyuan_v1_dense", LLAMA3),
    Made("ERNIE 4.5", "ernie4_5", MISTRAL),
    Made("Mixtral", "mixtral", MISTRAL, {"sliding_window": None}),
    Made("Qwen 3 MoE", "qwen3_moe", QWEN),
    Made("gpt-oss", "gpt_oss", LLAMA3),
    Made("Granite 4", "granitemoehybrid", GPT2),
    Made("Mamba 2", "mamba2", GPT2),
    Made("Nemotron", "nemotron", LLAMA3),
    Made("Arcee", "arcee", LLAMA3),
    Made("Seed-OSS", "seed_oss", LLAMA3),
    Made("Apertus", "apertus", LLAMA3),
    Made("MiniCPM 3", "minicpm3", LLAMA3),
)
