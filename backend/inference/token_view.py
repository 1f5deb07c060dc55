"""A look inside: the exact prompt, how likely each token of an answer is, and base against tuned.

The shapes are those of the server's ``token-view`` and ``compare``; see docs/serving.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from backend.core import vocabulary
from backend.errors import InferenceError
from backend.inference.answer import Answer, Answerer
from backend.inference.logprobs import Judged, answer_logprobs, divergence, first_difference, judged
from backend.inference.prompting import Prompt, PromptRenderer

MAX_ANSWER_TOKENS = 512
"""Longest answer that is judged: all its probabilities are held at once, about 100 MB at 50,000 tokens a place."""
TOP = 5
"""Likeliest tokens shown at each place."""


def look_inside(
    model: Answerer, prompt: Prompt, *, max_new_tokens: int = 128, **options: Any
) -> dict[str, Any]:
    """The prompt as ``model`` sees it, and its answer token by token. ``options`` are those of ``answers``.

    An adapter is held against its base: both answer with the same seed, and both judge what the tuned one said.
    Raises InferenceError.
    """
    if max_new_tokens > MAX_ANSWER_TOKENS:
        raise InferenceError(
            f"An answer of {max_new_tokens} tokens is too long to be looked into.",
            remedy=f"Ask for at most {MAX_ANSWER_TOKENS}.",
            code="bad-sampling",
        )

    def speak() -> Answer:
        return model.answers(prompt, max_new_tokens=max_new_tokens, **options)[0]

    ids, said = model.render(prompt), speak()
    said_ids = _ids(said)
    along = answer_logprobs(model.model, ids, said_ids)
    shown, tuned = shown_prompt(model.renderer, ids), _side(model.renderer, said, along)
    if not model.has_adapter:
        return {"prompt": shown, "answer": tuned}
    with model.as_base():
        other = speak()
        own, base_along = (answer_logprobs(model.model, ids, each) for each in (_ids(other), said_ids))
    return {
        "prompt": shown,
        "tuned": tuned,
        "base": _side(model.renderer, other, own),
        "first_difference": first_difference(said_ids, _ids(other)),
        **shown_divergence(model.renderer, said_ids, along, base_along),
    }


def _ids(said: Answer) -> list[int]:
    return [token.token_id for token in said.tokens]


def _side(renderer: PromptRenderer, said: Answer, logprobs: Tensor) -> dict[str, Any]:
    tokens = shown_tokens(renderer, judged(logprobs, _ids(said), top=TOP))
    return {"text": said.text, "finish_reason": said.finish, "tokens": tokens}


def shown_prompt(renderer: PromptRenderer, prompt: Sequence[int]) -> dict[str, Any]:
    """The prompt as text with its special tokens, and token by token."""
    text = renderer.tokenizer.decode(prompt, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return {"text": text, "tokens": [_token(renderer, token_id) for token_id in prompt]}


def shown_tokens(renderer: PromptRenderer, tokens: Sequence[Judged]) -> list[dict[str, Any]]:
    """Every token of an answer: how likely it was, and what else was."""
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
) -> dict[str, Any]:
    """How far two models part along ``ids``, from their log-probabilities [len(ids), V]."""
    gaps = divergence(tuned, base)
    places = [
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
    """Return one token as text, special tokens by their name."""
    return vocabulary.token_text(renderer.tokenizer, token_id)


def finite(value: float) -> float:
    """A log-probability that JSON can hold."""
    return value if math.isfinite(value) else -9999.0


def _token(renderer: PromptRenderer, token_id: int) -> dict[str, Any]:
    special = vocabulary.is_special(renderer.tokenizer, token_id)
    return {"id": token_id, "text": token_text(renderer, token_id), "special": special}


def _likely(logprob: float) -> dict[str, float]:
    return {"logprob": finite(logprob), "probability": math.exp(logprob)}
