"""The decode loop: many prompts side by side, one token each a turn, rows leave as they end. Floor F1.

Prompts are padded on the left, with masks and positions set so that padding changes nothing. Every row draws from
a generator of its own, so that what a row says does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from backend.core import packed_attention
from backend.core.batching import common_prefix
from backend.core.kv_cache import new_cache
from backend.errors import InferenceError

MIN_SHARED = 8
"""A common beginning shorter than this, in tokens, is not worth computing apart."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. ``temperature`` 0 is greedy: always the likeliest token.

    ``top_k`` 0 and ``top_p`` 1 mean no cut. ``seed`` fixes the draw of each row. Raises InferenceError for values
    that make no sense.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "max_new_tokens": (self.max_new_tokens, 1 <= self.max_new_tokens <= 1_048_576, "1 or more"),
            "temperature": (self.temperature, 0 <= self.temperature <= 100, "from 0 to 100"),
            "top_p": (self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k, self.top_k >= 0, "0 or more"),
            "seed": (self.seed, 0 <= self.seed < 2**63, "0 or more"),
        }
        for name, (value, fits, wanted) in bounds.items():
            if not fits:
                raise InferenceError(
                    f"{name} is {value}.", remedy=f"Use a value that is {wanted}.", code="bad-sampling"
                )


@dataclass(frozen=True)
class NewToken:
    """One generated token of prompt ``row``; ``finish`` is "" while the row goes on, else stop or length."""

    row: int
    token_id: int
    logprob: float
    finish: str


class Decoding:
    """Prompts being continued. ``step()`` gives every row that is not done its next token.

    Raises InferenceError for an empty prompt or one that leaves no room in the model's context.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        stop_ids: Collection[int],
    ) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._stop_ids = frozenset(stop_ids)
        self._sampling = sampling
        self._limit = context_length(model)
        for prompt in prompts:
            check_prompt(prompt, self._limit)
        self._room = [min(sampling.max_new_tokens, self._limit - len(prompt)) for prompt in prompts]
        self._generators = [
            torch.Generator().manual_seed((sampling.seed * 0x9E3779B97F4A7C15 + len(prompt)) % 2**63)
            for prompt in prompts
        ]
        self.rows = list(range(len(prompts)))
        self._seats = list(self.rows)
        # an index, not a number: a slice would make the head a batched product over copies of its weight
        self._last = torch.tensor([-1], device=self._device)
        self._cache = new_cache(model.config)
        shared = self._prefill_shared(prompts)
        self._inputs, mask = _left_padded([prompt[shared:] for prompt in prompts], self._device)
        self._positions = shared + (mask.cumsum(1) - 1).clamp(min=0)
        self._mask = torch.cat([mask.new_ones(len(prompts), shared), mask], dim=1)

    @torch.inference_mode()
    def _prefill_shared(self, prompts: Sequence[Sequence[int]]) -> int:
        """Compute the beginning that all prompts share once, for all; returns its length in tokens.

        Not under a sliding window: padding between the beginning and the rest would take places in it.
        """
        if len(prompts) < 2 or any(layer.is_sliding for layer in self._cache.layers):
            return 0
        shortest = min(len(prompt) for prompt in prompts)
        arrays = [np.asarray(prompt[:shortest]) for prompt in prompts]
        shared = min(shortest - 1, *(common_prefix(arrays[0], array) for array in arrays[1:]))
        if shared < MIN_SHARED:
            return 0
        ids = torch.tensor([list(prompts[0][:shared])], device=self._device)
        self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=self._last)
        self._cache.batch_repeat_interleave(len(prompts))
        return shared

    @torch.inference_mode()
    def step(self) -> list[NewToken]:
        """The next token of every remaining row, in the order of ``rows``; rows that finish leave."""
        if not self.rows:
            return []
        logits = (
            self._model(
                input_ids=self._inputs,
                attention_mask=self._mask,
                position_ids=self._positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=self._last,
            )
            .logits[:, -1]
            .float()
        )
        going = set(self.rows)
        tokens = {
            seat: self._choose(row, logits[seat]) for seat, row in enumerate(self._seats) if row in going
        }
        self._advance(tokens)
        return list(tokens.values())

    def drop(self, row: int) -> None:
        """Let ``row`` go, finished or not: it gets no further token."""
        self.rows = [other for other in self.rows if other != row]
        self._close_ranks()

    def _choose(self, row: int, logits: Tensor) -> NewToken:
        token_id = _draw(logits, self._sampling, self._generators[row])
        self._room[row] -= 1
        finish = "stop" if token_id in self._stop_ids else "" if self._room[row] else "length"
        logprob = float(logits[token_id] - torch.logsumexp(logits, -1))
        return NewToken(row, token_id, logprob, finish)

    def _advance(self, tokens: Mapping[int, NewToken]) -> None:
        """Make the new tokens, by seat, the next input; rows that finished leave."""
        ids = [[tokens[seat].token_id if seat in tokens else 0] for seat in range(len(self._seats))]
        self._inputs = torch.tensor(ids, device=self._device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(ids), 1)], dim=1)
        # a row that ended where the context does keeps its seat for a while: hold its position inside
        self._positions = (self._positions[:, -1:] + 1).clamp(max=self._limit - 1)
        self.rows = [token.row for token in tokens.values() if not token.finish]
        self._close_ranks()

    def _close_ranks(self) -> None:
        """Give up the seats of rows that left once half of them are empty: moving the others costs a copy."""
        if not self.rows or len(self.rows) > len(self._seats) // 2:
            return
        index = torch.tensor([self._seats.index(row) for row in self.rows], device=self._device)
        self._seats = list(self.rows)
        self._inputs, self._mask, self._positions = (
            kept[index] for kept in (self._inputs, self._mask, self._positions)
        )
        if self._cache.get_seq_length():
            self._cache.batch_select_indices(index)


def _draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One token id from ``logits`` [V]: the likeliest, or drawn by inverting the cumulative distribution."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities, order = torch.softmax(logits.cpu() / sampling.temperature, -1).sort(descending=True)
    kept = torch.cumsum(probabilities, -1) - probabilities < sampling.top_p
    if sampling.top_k:
        kept[sampling.top_k :] = False
    cumulative = torch.cumsum(probabilities * kept, -1)
    point = torch.rand((), generator=generator) * cumulative[-1]
    place = int(torch.searchsorted(cumulative, point, right=True))
    return int(order[min(place, len(order) - 1)])


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask), int64 [rows, longest]: prompts end at the right edge, the mask is 0 before they begin."""
    width = max((len(prompt) for prompt in prompts), default=0)
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    both = (torch.tensor(part, dtype=torch.int64, device=device) for part in (ids, mask))
    first, second = (part.view(len(prompts), width) for part in both)
    return first, second


def context_length(model: PreTrainedModel | PeftModel) -> int:
    """Most tokens the model can look at: prompt and answer together."""
    config = model.config.get_text_config()
    return int(
        getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 20
    )


def check_prompt(prompt: Sequence[int], limit: int) -> None:
    """Raise InferenceError unless ``prompt`` has at least one token and leaves room for at least one more."""
    if not prompt:
        raise InferenceError("The prompt is empty.", remedy="Write a prompt.", code="empty-prompt")
    if len(prompt) >= limit:
        raise InferenceError(
            f"The prompt has {len(prompt)} tokens, and this model can take {limit - 1} before it answers.",
            remedy="Shorten the prompt.",
            code="prompt-too-long",
        )


@contextmanager
def for_inference(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """A training model made ready to generate: unpacked attention, no dropout; as it was afterwards."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    packed, training = causal.config._attn_implementation == packed_attention.NAME, model.training
    if packed:
        causal.set_attn_implementation("sdpa" if causal._supports_sdpa else "eager")
    model.eval()
    try:
        yield
    finally:
        if packed:
            causal.set_attn_implementation(packed_attention.NAME)
        model.train(training)
