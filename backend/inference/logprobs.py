"""The log-probabilities of an answer, token by token, and how much two models differ along it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True)
class TokenScore:
    """One token of an answer: its log-probability, and the entropy in nats and likeliest tokens at its position."""

    token_id: int
    logprob: float
    entropy: float
    top: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        """Clip an entropy that rounding made slightly negative to 0."""
        object.__setattr__(self, "entropy", max(0.0, self.entropy))


@torch.inference_mode()
def answer_logprobs(
    model: PreTrainedModel | PeftModel, prompt: Sequence[int], answer: Sequence[int]
) -> Tensor:
    """Return log-probabilities, float32 [len(answer), V], of the whole vocabulary at each token of ``answer``."""
    ids = torch.tensor([[*prompt, *answer[:-1]]], device=model.device)
    places = torch.arange(len(prompt) - 1, ids.shape[1], device=model.device)
    logits: Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=places).logits[0]
    return logits.float().log_softmax(-1)


def token_scores(logprobs: Tensor, answer: Sequence[int], *, top: int) -> list[TokenScore]:
    """Return a score for each token of ``answer``, given ``logprobs`` [len(answer), V], with ``top`` alternatives."""
    own = logprobs[torch.arange(len(answer)), torch.tensor(list(answer))].tolist()
    entropies = torch.special.entr(logprobs.exp()).sum(-1).tolist()
    values, ids = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1)
    likeliest = [tuple(zip(*pair, strict=True)) for pair in zip(ids.tolist(), values.tolist(), strict=True)]
    return [
        TokenScore(*one) for one in zip(answer, own, entropies, likeliest or [()] * len(answer), strict=True)
    ]


def divergence(first: Tensor, second: Tensor) -> list[float]:
    """Return KL(first‖second) in nats at each position, from log-probabilities [positions, V]."""
    return (first.exp() * (first - second)).sum(-1).clamp(min=0).tolist()


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Return the index of the first token that differs (one list may continue the other); None if they are equal."""
    shorter = min(len(one), len(other))
    found = next((index for index in range(shorter) if one[index] != other[index]), shorter)
    return None if found == len(one) == len(other) else found
