"""How the next token is chosen from a row's logits: penalties, constraint, temperature, cuts, seed."""

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
"""So many tokens are sorted first; all of them only where these hold too little of the probability."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. ``temperature`` 0 is greedy: always the likeliest token.

    ``top_k`` 0 and ``top_p`` 1 mean no cut. ``seed`` fixes the draw of each row. ``repetition_penalty`` divides
    the logits of tokens that are in prompt or answer (Keskar et al. 2019, section 4.1); ``presence_penalty`` and
    ``frequency_penalty`` are taken off those of the answer, once and as often as they came (OpenAI's API reference).
    ``top_logprobs`` alternatives come with every token. Raises InferenceError for values that make no sense.
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
        """Whether what was said before changes what is said next."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)


class Matcher(Protocol):
    """What a row may say: see ``constraint``."""

    def allowed(self, size: int) -> Tensor:
        """Which of the first ``size`` token ids may come next, bool [size]."""

    def accept(self, token_id: int) -> None:
        """Take note of the token that came."""


@dataclass(frozen=True)
class Choice:
    """A chosen token, its log-probability under the model itself, and the likeliest tokens at its place."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Chooser:
    """Chooses the tokens of one row, one after the other; rows share nothing.

    ``known`` bool [V] says which ids stand for a token at all (None: every one); no other is drawn or shown.
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
        seed = (sampling.seed * 0x9E3779B97F4A7C15 + len(prompt)) % 2**63
        self._generator = torch.Generator().manual_seed(seed)
        self._prompt = frozenset(prompt) if sampling.repetition_penalty != 1 else frozenset[int]()
        self._said: Counter[int] = Counter()

    def choose(self, logits: Tensor) -> Choice:
        """Return the next token from ``logits`` [V], float32.

        Raises InferenceError ``bad-constraint`` where the form leaves no token that this model has.
        """
        whole = torch.logsumexp(logits, -1)
        if self._known is not None:
            logits = logits.masked_fill(~self._known.to(logits.device), -torch.inf)
        wanted = self._penalised(logits) if self.sampling.penalised else logits
        if self._matcher is not None:
            allowed = self._matcher.allowed(len(logits)).to(logits.device)
            wanted = wanted.masked_fill(~allowed, -torch.inf)
            if not torch.isfinite(wanted).any():
                raise _DEAD_END
        token_id = draw(wanted, self.sampling, self._generator)
        if self._matcher is not None:
            self._matcher.accept(token_id)
        self._said[token_id] += 1
        top: tuple[tuple[int, float], ...] = ()
        if self.sampling.top_logprobs:
            values, ids = logits.topk(min(self.sampling.top_logprobs, int(torch.isfinite(logits).sum())))
            top = tuple(zip(ids.tolist(), (values - whole).tolist(), strict=True))
        return Choice(token_id, float(logits[token_id] - whole), top)

    def _penalised(self, logits: Tensor) -> Tensor:
        changed = logits.clone()
        seen = [token for token in {*self._prompt, *self._said} if token < len(logits)]
        if seen and self.sampling.repetition_penalty != 1:
            ids = torch.tensor(seen, device=logits.device)
            old, by = logits[ids], self.sampling.repetition_penalty
            changed[ids] = torch.where(old > 0, old / by, old * by)
        if self._said:
            ids = torch.tensor(list(self._said), device=logits.device)
            times = torch.tensor(list(self._said.values()), device=logits.device, dtype=logits.dtype)
            changed[ids] -= self.sampling.presence_penalty + self.sampling.frequency_penalty * times
        return changed


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One token id from ``logits`` [V]: the likeliest, or drawn by inverting the cumulative distribution."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    scores = logits.cpu().double()
    scores = (
        scores - scores.max()
    ) / sampling.temperature  # the likeliest at 0, or a tiny temperature is no number
    probabilities, order = _cut(torch.softmax(scores, -1), sampling)
    cumulative = torch.cumsum(probabilities, -1)
    point = torch.rand((), generator=generator, dtype=torch.float64) * cumulative[-1]
    place = min(int(torch.searchsorted(cumulative, point, right=True)), len(cumulative) - 1)
    return int(order[place]) if order is not None else place


def _cut(probabilities: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor | None]:
    """The probabilities that ``top_k`` and then ``top_p`` leave, and whose they are (None: everybody's, in order).

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
