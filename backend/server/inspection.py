"""A look inside: the exact prompt, how likely each token of an answer is, and base against tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from backend.core.tokenizer import encode_messages, encode_prompt_completion
from backend.inference.logprobs import answer_logprobs, first_difference, token_scores
from backend.inference.prompting import PromptRenderer
from backend.inference.token_view import MAX_ANSWER_TOKENS, shown_divergence, shown_prompt, shown_tokens
from backend.run.root import BASE
from backend.server.answers import Asked, Service, answering, variant_of
from backend.server.errors import ApiError
from backend.server.jobs import Variant
from backend.server.schemas import CompareRequest, Looked, TokenViewRequest


@dataclass(frozen=True)
class _Said:
    text: str
    finish: str
    ids: list[int]


async def token_view(service: Service, request: TokenViewRequest) -> dict[str, Any]:
    """The prompt as the model sees it, and the answer token by token. Raises ApiError."""
    source, renderer = await service.model(request.model)
    variant = variant_of(request, source)
    prompt = await _render(service, request, renderer)
    if request.answer is None:
        said = await _generate(service, request, variant, renderer, prompt)
    else:
        answer = request.answer
        said = await service.in_thread(lambda: _given(renderer, request, answer, prompt))
    logprobs = await _judge(service, variant, prompt, said)
    return {
        "model": request.model,
        "prompt": shown_prompt(renderer, prompt),
        "answer": {
            "text": said.text,
            "finish_reason": said.finish,
            "tokens": shown_tokens(renderer, token_scores(logprobs, said.ids, top=request.top)),
        },
    }


async def compare(service: Service, request: CompareRequest) -> dict[str, Any]:
    """Both answers from the same seed, and along the tuned one how far the models are apart. Raises ApiError."""
    name = request.model.rpartition("@")[0] or request.model
    against = request.against or (BASE if name == BASE else f"{name}@{BASE}")
    tuned, renderer = await service.model(request.model)
    base, _ = await service.model(against)
    if tuned.base != base.base:
        problem = "against: The two stand on different base models."
        raise ApiError(400, problem, code="another_base", param="against")
    prompt = await _render(service, request, renderer)
    variants: tuple[Variant, Variant] = variant_of(request, tuned), (base, 1.0)
    said, other = [await _generate(service, request, each, renderer, prompt) for each in variants]
    along, base_along = [await _judge(service, each, prompt, said) for each in variants]
    own = await _judge(service, variants[1], prompt, other)
    return await service.in_thread(
        lambda: {
            "prompt": shown_prompt(renderer, prompt),
            "tuned": _side(request.model, renderer, said, along, request.top),
            "base": _side(against, renderer, other, own, request.top),
            "first_difference": first_difference(said.ids, other.ids),
            **shown_divergence(renderer, said.ids, along, base_along),
        }
    )


async def _render(service: Service, request: Looked, renderer: PromptRenderer) -> list[int]:
    messages, field = request.conversation(), "messages" if request.messages else "prompt"
    return await service.in_thread(lambda: renderer.render(messages, tools=request.plain_tools), prompt=field)


async def _judge(service: Service, variant: Variant, prompt: Sequence[int], said: _Said) -> Tensor:
    return await service.wait(
        service.engine.compute(variant, lambda model: answer_logprobs(model, prompt, said.ids))
    )


async def _generate(
    service: Service, request: Looked, variant: Variant, renderer: PromptRenderer, prompt: list[int]
) -> _Said:
    seeded = request.model_copy(update={"seed": request.fixed_seed or 0})
    limit = min(request.max_tokens, renderer.context_length - len(prompt))
    async with answering(service, seeded, variant, [Asked(prompt, limit)]) as coming:
        parts = [piece async for piece in coming]
    ids = [part.token.token_id for part in parts]
    return _Said("".join(part.text for part in parts), parts[-1].finish, ids)


def _given(renderer: PromptRenderer, request: Looked, answer: str, prompt: Sequence[int]) -> _Said:
    """An answer that the client wrote, with the ids that training would give it."""
    ids: list[int] = []
    if renderer.tokenizer.chat_template is not None:
        whole = [*request.conversation(), {"role": "assistant", "content": answer}]
        seen = encode_messages(renderer.tokenizer, whole, tools=request.plain_tools).input_ids
        ids = seen[len(prompt) :] if seen[: len(prompt)] == list(prompt) else []
    if not ids:
        made = encode_prompt_completion(renderer.tokenizer, "", answer)
        ids = [token for token, trained in zip(made.input_ids, made.trained, strict=True) if trained]
    if len(prompt) + len(ids) > renderer.context_length or len(ids) > MAX_ANSWER_TOKENS:
        problem = f"answer: It has {len(ids)} tokens, which is too long."
        raise ApiError(400, problem, code="answer_too_long", param="answer")
    return _Said(answer, "stop", ids)


def _side(name: str, renderer: PromptRenderer, said: _Said, logprobs: Tensor, top: int) -> dict[str, Any]:
    tokens = shown_tokens(renderer, token_scores(logprobs, said.ids, top=top))
    return {"model": name, "text": said.text, "finish_reason": said.finish, "tokens": tokens}
