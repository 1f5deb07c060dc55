"""Choose the next token from a row's logits: penalties, constraint, temperature, top_k, top_p, seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Protocol

import torch
from torch import Tensor

from backend.errors import InferenceError

LIKELIEST = 512
"""For top_p, only this many tokens are sorted, unless they hold less probability than it asks for."""


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters. ``temperature`` 0 is greedy: always the likeliest token.

    ``top_k`` 0 and ``top_p`` 1 cut nothing. ``seed`` fixes the random draws. ``repetition_penalty`` divides the
    positive and multiplies the negative logits of tokens in prompt or answer (Keskar et al., 2019, arXiv:1909.05858,
    section 4.1). ``presence_penalty`` is subtracted once, ``frequency_penalty`` once per occurrence, from the logits
    of tokens in the answer (OpenAI's API reference). ``top_logprobs`` is the number of alternatives reported with
    each token. Raises InferenceError ``bad-sampling`` for a value out of range.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            kind, wanted = (Integral, "a whole number") if field.type == "int" else (Real, "a number")
            self._check(field.name, wanted, fits=isinstance(getattr(self, field.name), kind))
        bounds = {
            "max_new_tokens": (1 <= self.max_new_tokens <= 1_048_576, "from 1 to 1,048,576"),
            "temperature": (0 <= self.temperature <= 100, "from 0 to 100"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "seed": (0 <= self.seed < 2**63, "0 or more"),
            "repetition_penalty": (0.1 <= self.repetition_penalty <= 10, "from 0.1 to 10"),
            "presence_penalty": (-2 <= self.presence_penalty <= 2, "from -2 to 2"),
            "frequency_penalty": (-2 <= self.frequency_penalty <= 2, "from -2 to 2"),
            "top_logprobs": (0 <= self.top_logprobs <= 20, "from 0 to 20"),
        }
        for name, (fits, wanted) in bounds.items():
            self._check(name, wanted, fits=fits)

    def _check(self, name: str, wanted: str, *, fits: bool) -> None:
        if not fits:
            raise InferenceError(
                f"{name} is {getattr(self, name)}.",
                remedy=f"Use a value that is {wanted}.",
                code="bad-sampling",
            )

    @property
    def penalised(self) -> bool:
        """True if earlier tokens change the logits of the next one."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)


class Matcher(Protocol):
    """The tokens that a constrained answer may go on with; see ``constraint.GrammarMatcher``."""

    def allowed(self, size: int) -> Tensor:
        """Return, bool [size], which of the first ``size`` token ids may come next."""

    def accept(self, token_id: int) -> None:
        """Advance by the token that was chosen."""


@dataclass(frozen=True)
class SampledToken:
    """A chosen token, its log-probability under the model itself, and the likeliest tokens at its position."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one row; rows share no state.

    ``known`` bool [V] marks the ids that stand for a token (None: all do); no other is drawn or reported.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        matcher: Matcher | None = None,
        known: Tensor | None = None,
    ) -> None:
        self.sampling = sampling
        self._matcher = matcher
        self._known = known
        # mixed with the length, so that one seed draws differently for different prompts
        seed = (sampling.seed * 0x9E3779B97F4A7C15 + len(prompt)) % 2**63
        self._generator = torch.Generator().manual_seed(seed)
        self._prompt = frozenset(prompt) if sampling.repetition_penalty != 1 else frozenset[int]()
        self._generated: Counter[int] = Counter()

    def choose(self, logits: Tensor) -> SampledToken:
        """Return the next token, given its ``logits`` [V], float32.

        Raises InferenceError ``bad-constraint`` if the constraint allows no token that this model has.
        """
        log_norm = torch.logsumexp(logits, -1)  # before any change: log-probabilities are the model's own
        if self._known is not None:
            logits = logits.masked_fill(~self._known.to(logits.device), -torch.inf)
        scores = self._penalised(logits) if self.sampling.penalised else logits
        if self._matcher is not None:
            allowed = self._matcher.allowed(len(logits)).to(logits.device)
            scores = scores.masked_fill(~allowed, -torch.inf)
            if not torch.isfinite(scores).any():
                raise _DEAD_END
        token_id = draw(scores, self.sampling, self._generator)
        if self._matcher is not None:
            self._matcher.accept(token_id)
        self._generated[token_id] += 1
        top: tuple[tuple[int, float], ...] = ()
        if self.sampling.top_logprobs:
            values, ids = logits.topk(min(self.sampling.top_logprobs, int(torch.isfinite(logits).sum())))
            top = tuple(zip(ids.tolist(), (values - log_norm).tolist(), strict=True))
        return SampledToken(token_id, float(logits[token_id] - log_norm), top)

    def _penalised(self, logits: Tensor) -> Tensor:
        changed = logits.clone()
        seen = [token for token in {*self._prompt, *self._generated} if token < len(logits)]
        if seen and self.sampling.repetition_penalty != 1:
            ids = torch.tensor(seen, device=logits.device)
            old, penalty = logits[ids], self.sampling.repetition_penalty
            changed[ids] = torch.where(old > 0, old / penalty, old * penalty)
        if self._generated:
            ids = torch.tensor(list(self._generated), device=logits.device)
            times = torch.tensor(list(self._generated.values()), device=logits.device, dtype=logits.dtype)
            changed[ids] -= self.sampling.presence_penalty + self.sampling.frequency_penalty * times
        return changed


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Return one token id from ``logits`` [V]: the likeliest, or drawn by inverting the cumulative distribution."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    scores = logits.cpu().double()
    # the maximum is shifted to 0 before dividing: a tiny temperature would overflow
    scores = (scores - scores.max()) / sampling.temperature
    probabilities, order = _cut(torch.softmax(scores, -1), sampling)
    cumulative = torch.cumsum(probabilities, -1)
    point = torch.rand((), generator=generator, dtype=torch.float64) * cumulative[-1]
    place = min(int(torch.searchsorted(cumulative, point, right=True)), len(cumulative) - 1)
    return int(order[place]) if order is not None else place


def _cut(probabilities: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor | None]:
    """Return (probabilities after ``top_k``, then ``top_p``; their token ids, None for all ids in order).

    ``top_p`` is a share of what ``top_k`` left, as in transformers, vLLM and llama.cpp.
    """
    if sampling.top_k == 0 and sampling.top_p == 1:
        return probabilities, None
    count = min(sampling.top_k or LIKELIEST, len(probabilities))
    kept, order = probabilities.topk(count)
    if sampling.top_k == 0 and kept.sum() < sampling.top_p:
        kept, order = probabilities.sort(descending=True)
    share = sampling.top_p * kept.sum() if sampling.top_k else sampling.top_p
    before = torch.cumsum(kept, -1) - kept
    return kept * (before < share), order


_DEAD_END = InferenceError(
    "The form that was asked for leaves no token that this model has.",
    remedy="Ask for another form.",
    code="bad-constraint",
)
