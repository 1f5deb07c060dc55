"""Token view and comparison: the exact prompt, how likely each token of an answer is, and base against tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from backend.core.tokenizer import encode_messages, encode_prompt_completion
from backend.inference.logprobs import answer_logprobs, first_difference, token_scores
from backend.inference.prompting import PromptRenderer
from backend.inference.token_view import MAX_ANSWER_TOKENS, shown_divergence, shown_prompt, shown_tokens
from backend.run.root import BASE
from backend.server.errors import ApiError
from backend.server.generation import EncodedPrompt, generate
from backend.server.jobs import Variant
from backend.server.responses import ComparedAnswer, Comparison, TokenView
from backend.server.schemas import CompareRequest, InspectionRequest, TokenViewRequest
from backend.server.service import Service, variant_of


@dataclass(frozen=True)
class _Answer:
    text: str
    finish: str
    ids: list[int]


async def token_view(service: Service, request: TokenViewRequest) -> TokenView:
    """Return the prompt as the model sees it, and the answer token by token. Raises ApiError."""
    source, renderer = await service.model(request.model)
    variant = variant_of(request, source)
    prompt = await _render(service, request, renderer)
    if request.answer is None:
        answer = await _generate(service, request, variant, renderer, prompt)
    else:
        text = request.answer
        answer = await service.in_thread(lambda: _encode_answer(renderer, request, text, prompt))
    logprobs = await _answer_logprobs(service, variant, prompt, answer)
    return {
        "model": request.model,
        "prompt": shown_prompt(renderer, prompt),
        "answer": {
            "text": answer.text,
            "finish_reason": answer.finish,
            "tokens": shown_tokens(renderer, token_scores(logprobs, answer.ids, top=request.top)),
        },
    }


async def compare(service: Service, request: CompareRequest) -> Comparison:
    """Return both answers from one seed, and how far the models are apart along the tuned one. Raises ApiError."""
    name = request.model.rpartition("@")[0] or request.model
    against = request.against or (BASE if name == BASE else f"{name}@{BASE}")
    tuned, renderer = await service.model(request.model)
    base, _ = await service.model(against)
    if tuned.base_key != base.base_key:
        problem = "against: The two stand on different base models."
        raise ApiError(400, problem, code="another_base", param="against")
    prompt = await _render(service, request, renderer)
    variants: tuple[Variant, Variant] = variant_of(request, tuned), (base, 1.0)
    answer, base_answer = [
        await _generate(service, request, variant, renderer, prompt) for variant in variants
    ]
    # both models score the tuned answer, which is what they can be compared along
    logprobs, base_along = [await _answer_logprobs(service, variant, prompt, answer) for variant in variants]
    base_logprobs = await _answer_logprobs(service, variants[1], prompt, base_answer)

    def comparison() -> Comparison:
        return {
            "prompt": shown_prompt(renderer, prompt),
            "tuned": _side(request.model, renderer, answer, logprobs, request.top),
            "base": _side(against, renderer, base_answer, base_logprobs, request.top),
            "first_difference": first_difference(answer.ids, base_answer.ids),
            **shown_divergence(renderer, answer.ids, logprobs, base_along),
        }

    return await service.in_thread(comparison)


async def _render(service: Service, request: InspectionRequest, renderer: PromptRenderer) -> list[int]:
    messages, field = request.conversation(), "messages" if request.messages else "prompt"
    return await service.in_thread(lambda: renderer.render(messages, tools=request.plain_tools), prompt=field)


async def _answer_logprobs(
    service: Service, variant: Variant, prompt: Sequence[int], answer: _Answer
) -> Tensor:
    return await service.wait(
        service.engine.compute(variant, lambda model: answer_logprobs(model, prompt, answer.ids))
    )


async def _generate(
    service: Service,
    request: InspectionRequest,
    variant: Variant,
    renderer: PromptRenderer,
    prompt: list[int],
) -> _Answer:
    seeded = request.model_copy(update={"seed": request.fixed_seed or 0})
    limit = min(request.max_tokens, renderer.context_length - len(prompt))
    async with generate(service, seeded, variant, [EncodedPrompt(prompt, limit)]) as coming:
        deltas = [delta async for delta in coming]
    ids = [delta.token.token_id for delta in deltas]
    return _Answer("".join(delta.text for delta in deltas), deltas[-1].finish, ids)


def _encode_answer(
    renderer: PromptRenderer, request: InspectionRequest, text: str, prompt: Sequence[int]
) -> _Answer:
    """Return an answer that the client wrote, with the ids that training would give it. Raises ApiError."""
    ids: list[int] = []
    if renderer.tokenizer.chat_template is not None:
        messages = [*request.conversation(), {"role": "assistant", "content": text}]
        whole = encode_messages(renderer.tokenizer, messages, tools=request.plain_tools).input_ids
        ids = whole[len(prompt) :] if whole[: len(prompt)] == list(prompt) else []
    if not ids:  # no template, or one that writes the prompt differently where an answer follows
        made = encode_prompt_completion(renderer.tokenizer, "", text)
        ids = [token for token, trained in zip(made.input_ids, made.trained, strict=True) if trained]
    if len(prompt) + len(ids) > renderer.context_length or len(ids) > MAX_ANSWER_TOKENS:
        problem = f"answer: It has {len(ids)} tokens, which is too long."
        raise ApiError(400, problem, code="answer_too_long", param="answer")
    return _Answer(text, "stop", ids)


def _side(name: str, renderer: PromptRenderer, answer: _Answer, logprobs: Tensor, top: int) -> ComparedAnswer:
    tokens = shown_tokens(renderer, token_scores(logprobs, answer.ids, top=top))
    return {"model": name, "text": answer.text, "finish_reason": answer.finish, "tokens": tokens}
