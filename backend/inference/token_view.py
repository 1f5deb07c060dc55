"""View a prompt and an answer token by token with log-probabilities, and compare the tuned model with its base.

The dictionaries have the shapes of the server's ``token-view`` and ``compare``; see docs/serving.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from typing_extensions import TypedDict

from backend.core import vocabulary
from backend.errors import InferenceError
from backend.inference.answer import Answer, Answerer
from backend.inference.logprobs import TokenScore, answer_logprobs, divergence, first_difference, token_scores
from backend.inference.prompting import Prompt, PromptRenderer

MAX_ANSWER_TOKENS = 512
"""Longest answer to view: its log-probabilities are held at once, 100 MB with a vocabulary of 50,000."""
TOP = 5
"""Number of likeliest tokens shown at each position."""


class ShownToken(TypedDict):
    """A token as text, a special token by its name."""

    id: int
    text: str
    special: bool


class ShownPrompt(TypedDict):
    """A prompt as text, special tokens included, and token by token."""

    text: str
    tokens: list[ShownToken]


class _Likelihood(TypedDict):
    logprob: float
    probability: float


class LikelyToken(TypedDict):
    """One of the likeliest tokens at a position."""

    id: int
    text: str
    logprob: float
    probability: float


class ScoredToken(TypedDict):
    """A token of an answer with its probability, the entropy at its position, and the likeliest tokens there."""

    id: int
    text: str
    special: bool
    logprob: float
    probability: float
    entropy: float
    top: list[LikelyToken]


class DivergingToken(TypedDict):
    """A token as two models score it, and the KL divergence of the tuned one from its base there, in nats."""

    id: int
    text: str
    tuned_logprob: float
    base_logprob: float
    kl: float


class ShownDivergence(TypedDict):
    """The KL divergence of two models along an answer, at each position and in the mean."""

    divergence: list[DivergingToken]
    mean_kl: float


def view_tokens(
    model: Answerer, prompt: Prompt, *, max_new_tokens: int = 128, **options: Any
) -> dict[str, Any]:
    """Return the prompt as ``model`` sees it and its answer token by token. ``options`` are those of ``answers``.

    With an adapter, its base answers too, with the same seed, and both models score the tuned answer. Raises
    InferenceError.
    """
    if max_new_tokens > MAX_ANSWER_TOKENS:
        raise InferenceError(
            f"An answer of {max_new_tokens} tokens is too long to be looked into.",
            remedy=f"Ask for at most {MAX_ANSWER_TOKENS}.",
            code="bad-sampling",
        )

    def answer() -> Answer:
        return model.answers(prompt, max_new_tokens=max_new_tokens, **options)[0]

    ids, own = model.render(prompt), answer()
    own_ids = _ids(own)
    logprobs = answer_logprobs(model.model, ids, own_ids)
    shown, tuned = shown_prompt(model.renderer, ids), _side(model.renderer, own, logprobs)
    if not model.has_adapter:
        return {"prompt": shown, "answer": tuned}
    with model.as_base():
        base = answer()
        of_base, base_logprobs = (answer_logprobs(model.model, ids, each) for each in (_ids(base), own_ids))
    return {
        "prompt": shown,
        "tuned": tuned,
        "base": _side(model.renderer, base, of_base),
        "first_difference": first_difference(own_ids, _ids(base)),
        **shown_divergence(model.renderer, own_ids, logprobs, base_logprobs),
    }


def _ids(answer: Answer) -> list[int]:
    return [token.token_id for token in answer.tokens]


def _side(renderer: PromptRenderer, answer: Answer, logprobs: Tensor) -> dict[str, Any]:
    tokens = shown_tokens(renderer, token_scores(logprobs, _ids(answer), top=TOP))
    return {"text": answer.text, "finish_reason": answer.finish, "tokens": tokens}


def shown_prompt(renderer: PromptRenderer, prompt: Sequence[int]) -> ShownPrompt:
    """Return the prompt as text, special tokens included, and token by token."""
    text = renderer.tokenizer.decode(prompt, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return {"text": text, "tokens": [_token(renderer, token_id) for token_id in prompt]}


def shown_tokens(renderer: PromptRenderer, tokens: Sequence[TokenScore]) -> list[ScoredToken]:
    """Return each token of an answer with its probability, entropy and likeliest alternatives."""
    return [
        {
            **_token(renderer, each.token_id),
            **_likely(each.logprob),
            "entropy": each.entropy,
            "top": [
                {"id": token_id, "text": token_text(renderer, token_id), **_likely(value)}
                for token_id, value in each.top
            ],
        }
        for each in tokens
    ]


def shown_divergence(
    renderer: PromptRenderer, ids: Sequence[int], tuned: Tensor, base: Tensor
) -> ShownDivergence:
    """Return the KL divergence of two models at each of ``ids``, from their log-probabilities [len(ids), V]."""
    gaps = divergence(tuned, base)
    places: list[DivergingToken] = [
        {
            "id": token_id,
            "text": token_text(renderer, token_id),
            "tuned_logprob": finite(float(tuned[place, token_id])),
            "base_logprob": finite(float(base[place, token_id])),
            "kl": gaps[place],
        }
        for place, token_id in enumerate(ids)
    ]
    return {"divergence": places, "mean_kl": sum(gaps) / len(gaps)}


def token_text(renderer: PromptRenderer, token_id: int) -> str:
    """Return one token as text, a special token by its name."""
    return vocabulary.token_text(renderer.tokenizer, token_id)


def finite(value: float) -> float:
    """Return ``value``, with -9999 in place of minus infinity, which JSON cannot hold."""
    return value if math.isfinite(value) else -9999.0


def _token(renderer: PromptRenderer, token_id: int) -> ShownToken:
    special = vocabulary.is_special(renderer.tokenizer, token_id)
    return {"id": token_id, "text": token_text(renderer, token_id), "special": special}


def _likely(logprob: float) -> _Likelihood:
    return {"logprob": finite(logprob), "probability": math.exp(logprob)}
