"""Small models that speak, and what they say: by our decode loop, and by transformers' own ``generate``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from backend.core.generation import Decoding, NewToken, Prefill, Sampling
from backend.core.sampling import Chooser
from tests.backend.core.rows import lively_model

LONG = tuple(range(40, 70))
PROMPTS = [(5,), (9, 8, 7, 6, 5, 4, 3, 2), LONG, (11, 12, 13), (3, 400, 20, 8, 111)]
ALIKE = [(*LONG, 7), (*LONG, 8, 9, 10), (*LONG, 7, 3), LONG]
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
    match kind:
        case "sliding window":
            return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)).eval()
        case "capped scores":
            return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, sliding_window=6)).eval()
        case "local attention":
            sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 512}
            kinds = [[["global", "local"], 1]]
            return _lively(
                GPTNeoForCausalLM(GPTNeoConfig(**sizes, attention_types=kinds, window_size=3)), by=0.5
            )
        case "states":
            return _lively(MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=512)))
    return lively_model(kind)


def _lively(model: PreTrainedModel, by: float = 0.1) -> PreTrainedModel:
    with torch.no_grad():
        for part in model.parameters():
            part.add_(torch.randn_like(part), alpha=by)
    return model.eval()


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
        while waiting and waiting[0][0] <= step and decoding.takes_rows:
            _, prompt, sampling = waiting.pop(0)
            (row,) = decoding.join(read_whole(prompt, model=model), [Chooser(sampling, prompt)])
            said[row] = []
        for token in decoding.step():
            said[token.row].append(token.token_id)
        step += 1
    return list(said.values()), decoding
