"""Small models that speak, and what they say: by our decode loop, and by transformers' own ``generate``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)

from backend.inference.decoding import Decoding, NewToken, Prefill, Sampling
from backend.inference.sampling import Sampler
from tests.backend.core.rows import lively_model

LONG = tuple(range(40, 70))
PROMPTS = [(5,), (9, 8, 7, 6, 5, 4, 3, 2), LONG, (11, 12, 13), (3, 400, 20, 8, 111)]
ALIKE = [(*LONG, 7), (*LONG, 8, 9, 10), (*LONG, 7, 3), LONG]
BORDER = 16
"""The most tokens of a row that the short factors of "two ropes" are for."""
SIZES = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FREE = Sampling(max_new_tokens=8, temperature=1.0, seed=3)


@cache
def decoder(kind: str = "llama") -> PreTrainedModel:
    torch.manual_seed(0)
    return _KINDS[kind]() if kind in _KINDS else lively_model(kind)


def _lively(model: PreTrainedModel, by: float = 0.1) -> PreTrainedModel:
    with torch.no_grad():
        for part in model.parameters():
            part.add_(torch.randn_like(part), alpha=by)
    return model.eval()


_SMALL = {"hidden_size": 32, "vocab_size": 512}
_TWO_ROPES = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "factor": 32.0,
    "original_max_position_embeddings": BORDER,
}
_KINDS: dict[str, Callable[[], PreTrainedModel]] = {
    "sliding window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)).eval(),
    "capped scores": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, sliding_window=6)).eval(),
    "local attention": lambda: _lively(
        GPTNeoForCausalLM(
            GPTNeoConfig(
                **_SMALL, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=3
            )
        ),
        by=0.5,
    ),
    "states": lambda: _lively(MambaForCausalLM(MambaConfig(**_SMALL, num_hidden_layers=2))),
    "states and attention": lambda: _lively(
        Lfm2ForCausalLM(Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]))
    ),
    "two ropes": lambda: _lively(
        Phi3ForCausalLM(
            Phi3Config(**SIZES, original_max_position_embeddings=BORDER, rope_parameters=dict(_TWO_ROPES))
        )
    ),
    "no cache": lambda: _lively(
        OpenAIGPTLMHeadModel(OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=4, vocab_size=512))
    ),
}


def say(
    prompts: Sequence[Sequence[int]],
    sampling: Sampling | Sequence[Sampling],
    stop_ids: Collection[int] = (),
    *,
    model: PreTrainedModel | None = None,
) -> list[list[NewToken]]:
    """Every token of every row, in order."""
    return to_the_end(Decoding(model or decoder(), prompts, sampling, stop_ids))


def to_the_end(decoding: Decoding) -> list[list[NewToken]]:
    said: list[list[NewToken]] = [[] for _ in decoding.rows]
    while decoding.rows:
        for token in decoding.step():
            said[token.row].append(token)
    return said


def ids_of(said: list[list[NewToken]]) -> list[list[int]]:
    return [[token.token_id for token in row] for row in said]


def reference(prompt: Sequence[int], count: int, *, model: PreTrainedModel | None = None) -> list[int]:
    """Greedy tokens by transformers' own ``generate``."""
    model = model or decoder()
    ids = torch.tensor([list(prompt)])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=-1,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


def read_whole(prompt: Sequence[int], piece: int = 7, *, model: PreTrainedModel | None = None) -> Prefill:
    """``prompt`` read to its end, ``piece`` tokens at a time."""
    prefill = Prefill(model or decoder(), prompt)
    while prefill.left:
        prefill.advance(piece)
    return prefill


def joined(
    arrivals: Sequence[tuple[int, Sequence[int], Sampling]], *, model: PreTrainedModel | None = None
) -> tuple[list[list[int]], Decoding]:
    """What each row says when it joins before the step of its number; nobody joins who cannot."""
    decoding = Decoding(model or decoder(), [], Sampling(), ())
    said: dict[int, list[int]] = {}
    waiting, step = list(arrivals), 0
    while waiting or decoding.rows:
        while waiting and waiting[0][0] <= step and decoding.accepts_rows:
            _, prompt, sampling = waiting.pop(0)
            (row,) = decoding.join(read_whole(prompt, model=model), [Sampler(sampling, prompt)])
            said[row] = []
        for token in decoding.step():
            said[token.row].append(token.token_id)
        step += 1
    return list(said.values()), decoding
