"""A look inside: the exact prompt, how likely each token of an answer is, and base against tuned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from backend.core.judging import Judged, answer_logprobs, divergence, first_difference, judged
from backend.core.tokenizer import decode, encode_messages, encode_prompt_completion
from backend.server.answers import Service, answering, variant_of
from backend.server.catalogue import BASE
from backend.server.errors import ApiError
from backend.server.jobs import Variant
from backend.server.schemas import CompareRequest, Looked, TokenViewRequest
from backend.server.wording import finite, token_text
from backend.voice import Voice

MAX_ANSWER_TOKENS = 512
"""Longest answer that is judged: all its probabilities are held at once, about 100 MB at 50,000 tokens a place."""


@dataclass(frozen=True)
class _Said:
    text: str
    finish: str
    ids: list[int]


async def token_view(service: Service, request: TokenViewRequest) -> dict[str, Any]:
    """The prompt as the model sees it, and the answer token by token. Raises ApiError."""
    source, voice = await service.model(request.model)
    variant = variant_of(request, source)
    prompt = await service.aside(lambda: voice.render(request.conversation(), tools=request.plain_tools))
    if request.answer is None:
        said = await _generate(service, request, variant, voice, prompt)
    else:
        answer = request.answer
        said = await service.aside(lambda: _given(voice, request, answer, prompt))
    logprobs = await _judge(service, variant, prompt, said)
    return {
        "model": request.model,
        "prompt": _shown(voice, prompt),
        "answer": {
            "text": said.text,
            "finish_reason": said.finish,
            "tokens": _tokens(voice, judged(logprobs, said.ids, top=request.top)),
        },
    }


async def compare(service: Service, request: CompareRequest) -> dict[str, Any]:
    """Both answers from the same seed, and along the tuned one how far the models are apart. Raises ApiError."""
    name = request.model.rpartition("@")[0] or request.model
    against = request.against or (BASE if name == BASE else f"{name}@{BASE}")
    tuned, voice = await service.model(request.model)
    base, _ = await service.model(against)
    if tuned.base != base.base:
        problem = "against: The two stand on different base models."
        raise ApiError(400, problem, code="another_base", param="against")
    prompt = await service.aside(lambda: voice.render(request.conversation(), tools=request.plain_tools))
    variants: tuple[Variant, Variant] = variant_of(request, tuned), (base, 1.0)
    said, other = [await _generate(service, request, each, voice, prompt) for each in variants]
    along, base_along = [await _judge(service, each, prompt, said) for each in variants]
    own = await _judge(service, variants[1], prompt, other)
    return await service.aside(
        lambda: {
            "prompt": _shown(voice, prompt),
            "tuned": _side(voice, request.model, said, judged(along, said.ids, top=request.top)),
            "base": _side(voice, against, other, judged(own, other.ids, top=request.top)),
            "first_difference": first_difference(said.ids, other.ids),
            **_apart(voice, said.ids, along, base_along),
        }
    )


async def _judge(service: Service, variant: Variant, prompt: Sequence[int], said: _Said) -> Tensor:
    return await service.wait(
        service.engine.compute(variant, lambda model: answer_logprobs(model, prompt, said.ids))
    )


async def _generate(
    service: Service, request: Looked, variant: Variant, voice: Voice, prompt: list[int]
) -> _Said:
    seeded = request.model_copy(update={"seed": request.seed or 0})
    limit = min(request.max_tokens, voice.context_length - len(prompt))
    async with answering(service, seeded, variant, prompt, limit=limit) as coming:
        parts = [piece async for piece in coming]
    ids = [part.token.token_id for part in parts]
    return _Said("".join(part.text for part in parts), parts[-1].finish, ids)


def _given(voice: Voice, request: Looked, answer: str, prompt: Sequence[int]) -> _Said:
    """An answer that the client wrote, with the ids that training would give it."""
    ids: list[int] = []
    if voice.tokenizer.chat_template is not None:
        whole = [*request.conversation(), {"role": "assistant", "content": answer}]
        seen = encode_messages(voice.tokenizer, whole, tools=request.plain_tools).input_ids
        ids = seen[len(prompt) :] if seen[: len(prompt)] == list(prompt) else []
    if not ids:
        made = encode_prompt_completion(voice.tokenizer, "", answer)
        ids = [token for token, trained in zip(made.input_ids, made.trained, strict=True) if trained]
    if len(prompt) + len(ids) > voice.context_length or len(ids) > MAX_ANSWER_TOKENS:
        problem = f"answer: It has {len(ids)} tokens, which is too long."
        raise ApiError(400, problem, code="answer_too_long", param="answer")
    return _Said(answer, "stop", ids)


def _apart(voice: Voice, ids: Sequence[int], tuned: Tensor, base: Tensor) -> dict[str, Any]:
    gaps = divergence(tuned, base)
    places = [
        {
            "id": token_id,
            "text": token_text(voice, token_id),
            "tuned_logprob": finite(float(tuned[place, token_id])),
            "base_logprob": finite(float(base[place, token_id])),
            "kl": gaps[place],
        }
        for place, token_id in enumerate(ids)
    ]
    return {"divergence": places, "mean_kl": sum(gaps) / len(gaps)}


def _shown(voice: Voice, prompt: Sequence[int]) -> dict[str, Any]:
    """The prompt as text with its special tokens, and token by token."""
    text = voice.tokenizer.decode(prompt, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return {"text": text, "tokens": [_token(voice, token_id) for token_id in prompt]}


def _token(voice: Voice, token_id: int) -> dict[str, Any]:
    special = decode(voice.tokenizer, [token_id]) == ""
    return {"id": token_id, "text": token_text(voice, token_id), "special": special}


def _side(voice: Voice, name: str, said: _Said, tokens: Sequence[Judged]) -> dict[str, Any]:
    shown = _tokens(voice, tokens)
    return {"model": name, "text": said.text, "finish_reason": said.finish, "tokens": shown}


def _tokens(voice: Voice, tokens: Sequence[Judged]) -> list[dict[str, Any]]:
    return [
        {
            **_token(voice, each.token_id),
            **_likely(each.logprob),
            "entropy": each.entropy,
            "top": [
                {"id": token_id, "text": token_text(voice, token_id), **_likely(value)}
                for token_id, value in each.top
            ],
        }
        for each in tokens
    ]


def _likely(logprob: float) -> dict[str, float]:
    return {"logprob": finite(logprob), "probability": math.exp(logprob)}
