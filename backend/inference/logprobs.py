"""How likely an answer is, token by token, and how far two models part along it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Judged:
    """One token of an answer: its log-probability, the entropy of its place in nats, the likeliest tokens there."""

    token_id: int
    logprob: float
    entropy: float
    top: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        """An entropy of nothing but certainty is 0 and never a hair below."""
        object.__setattr__(self, "entropy", max(0.0, self.entropy))


@torch.inference_mode()
def answer_logprobs(
    model: PreTrainedModel | PeftModel, prompt: Sequence[int], answer: Sequence[int]
) -> Tensor:
    """Log-probabilities [len(answer), V], float32: those of every token at the place of each token of ``answer``."""
    ids = torch.tensor([[*prompt, *answer[:-1]]], device=model.device)
    places = torch.arange(len(prompt) - 1, ids.shape[1], device=model.device)
    logits: Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=places).logits[0]
    return logits.float().log_softmax(-1)


def judged(logprobs: Tensor, answer: Sequence[int], *, top: int) -> list[Judged]:
    """Every token of ``answer`` under ``logprobs`` [len(answer), V], with the ``top`` likeliest at its place."""
    own = logprobs[torch.arange(len(answer)), torch.tensor(list(answer))].tolist()
    entropies = torch.special.entr(logprobs.exp()).sum(-1).tolist()
    values, ids = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1)
    likeliest = [tuple(zip(*pair, strict=True)) for pair in zip(ids.tolist(), values.tolist(), strict=True)]
    return [Judged(*one) for one in zip(answer, own, entropies, likeliest or [()] * len(answer), strict=True)]


def divergence(first: Tensor, second: Tensor) -> list[float]:
    """KL(first‖second) in nats at each place, from log-probabilities [places, V]."""
    return (first.exp() * (first - second)).sum(-1).clamp(min=0).tolist()


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The index of the first token that differs (one may be the other's beginning); None when they are equal."""
    shorter = min(len(one), len(other))
    found = next((index for index in range(shorter) if one[index] != other[index]), shorter)
    return None if found == len(one) == len(other) else found
