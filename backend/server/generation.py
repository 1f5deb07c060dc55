"""From a chat or completion request to its answer: encode the prompts, queue them as jobs, collect the tokens."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from backend.errors import TunesmithError
from backend.inference.constraint import Constraint
from backend.inference.prompting import PromptRenderer
from backend.inference.sampling import Matcher
from backend.inferencer import answer_seed
from backend.server.engine import Engine
from backend.server.errors import INTERNAL, ApiError, to_api_error
from backend.server.formatting import ChatFormat, CompletionFormat, ResponseFormat, usage
from backend.server.jobs import Failure, Job, TokenDelta, Variant
from backend.server.metrics import Metrics
from backend.server.responses import ChatCompletion, ChatCompletionChunk, Completion, CompletionChunk
from backend.server.schemas import ChatRequest, CompletionRequest, GenerationRequest, StreamableRequest
from backend.server.service import Service, variant_of
from backend.server.tool_calls import CLOSE, OPEN

GRACE_SECONDS = 5.0
"""The engine itself ends an answer that is late; only when it says nothing for so much longer is it given up."""
_TIMED_OUT = ApiError(504, "This answer took too long. Ask for less.", code="time_limit")
_NO_TOOLS = ApiError(
    400,
    "tools: This model's chat template shows no tools, so it would not know of them; remove them.",
    code="tools_not_shown",
    param="tools",
)
_NO_CALLS = ApiError(
    400,
    "tool_choice: This model's chat template knows no form of a call that an answer could be held to.",
    code="calls_not_known",
    param="tool_choice",
)


class EventQueue:
    """The events of one request, from the engine's thread to the event loop, for at most so many ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + seconds
        self._events: asyncio.Queue[Sequence[TokenDelta | Failure]] = asyncio.Queue()

    def deliver(self, events: Sequence[TokenDelta | Failure]) -> None:
        """Add ``events``; called by the engine's thread, while an asyncio queue belongs to the loop's."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, events)
        except RuntimeError:  # the loop has ended, and with it whoever waited
            return

    async def next(self) -> Sequence[TokenDelta]:
        """Return what one step of the engine added. Raises ApiError when the job failed or nothing came in time."""
        try:
            async with asyncio.timeout_at(self._until):
                events = await self._events.get()
        except TimeoutError as error:
            raise _TIMED_OUT from error
        for event in events:
            if isinstance(event, Failure):
                raise INTERNAL if event.error is None else to_api_error(event.error)
        return [event for event in events if isinstance(event, TokenDelta)]


@dataclass(frozen=True)
class EncodedPrompt:
    """The ids of one prompt; each of its answers has at most ``max_new_tokens``, and a matcher of its own."""

    ids: list[int]
    max_new_tokens: int
    matchers: Sequence[Matcher | None] = (None,)


@asynccontextmanager
async def generate(
    service: Service,
    request: GenerationRequest,
    variant: Variant,
    prompts: Sequence[EncodedPrompt],
    *,
    stop: Sequence[str] = (),
    top_logprobs: int = 0,
) -> AsyncIterator[AsyncIterator[TokenDelta]]:
    """Yield the tokens of all answers as they come; leaving the context ends the work. Raises ApiError.

    With a seed, the answers to a prompt are the same whether it is asked alone or beside others. Without one they are
    numbered through the request, so that equal prompts are answered differently.
    """
    seed = secrets.randbits(62) if request.fixed_seed is None else request.fixed_seed
    events, started = EventQueue(service.answer_seconds + GRACE_SECONDS), time.monotonic()
    jobs: list[Job] = []
    count = 0
    for prompt in prompts:
        first = count if request.fixed_seed is None else 0
        samplings = [
            request.sampling(
                seed=answer_seed(seed, first + index),
                max_new_tokens=prompt.max_new_tokens,
                top_logprobs=top_logprobs,
            )
            for index in range(len(prompt.matchers))
        ]
        deadline = started + service.answer_seconds
        jobs.append(Job(variant, prompt.ids, samplings, prompt.matchers, stop, events, count, deadline))
        count += len(samplings)
    _submit(service.engine, jobs)
    try:
        yield _deltas(service.metrics, events, count, started)
    finally:
        _cancel(jobs)
        service.metrics.duration.observe(time.monotonic() - started)


def _submit(engine: Engine, jobs: Sequence[Job]) -> None:
    """Queue all jobs of a request, or none. Raises ApiError."""
    try:
        for job in jobs:
            engine.submit(job)
    except TunesmithError as error:
        _cancel(jobs)
        raise to_api_error(error) from error


def _cancel(jobs: Sequence[Job]) -> None:
    # a flag and no call: the engine reads it between two steps, so nothing that runs is ever interrupted half way
    for job in jobs:
        job.cancelled = True


async def _deltas(
    metrics: Metrics, events: EventQueue, unfinished: int, started: float
) -> AsyncIterator[TokenDelta]:
    first = True
    while unfinished:
        for delta in await events.next():
            if first:
                metrics.first_token.observe(time.monotonic() - started)
            first = False
            unfinished -= bool(delta.finish)
            yield delta


@dataclass(frozen=True)
class Generation:
    """A request that was accepted: its coming tokens, how many answers they make, and the format of the response."""

    request: StreamableRequest
    format: ResponseFormat
    prompt_tokens: int
    count: int
    deltas: AsyncIterator[TokenDelta]

    async def response(self) -> ChatCompletion | Completion:
        """Return the whole response once every answer has ended."""
        answers: list[list[TokenDelta]] = [[] for _ in range(self.count)]
        async for delta in self.deltas:
            answers[delta.choice].append(delta)
        return self.format.response(answers, usage(self.prompt_tokens, sum(map(len, answers))))

    async def chunks(self) -> AsyncIterator[ChatCompletionChunk | CompletionChunk]:
        """Yield the response as the chunks of a stream."""
        for index in range(self.count):
            if (chunk := self.format.first_chunk(index)) is not None:
                yield chunk
        generated = 0
        async for delta in self.deltas:
            generated += 1
            if (chunk := self.format.delta_chunk(delta)) is not None:
                yield chunk
            if delta.finish:
                yield self.format.last_chunk(delta.choice, delta.finish)
        for index in range(0 if generated else self.count):  # max_tokens is 0
            yield self.format.last_chunk(index, "length")
        if self.request.with_usage:
            yield self.format.usage_chunk(usage(self.prompt_tokens, generated))


@asynccontextmanager
async def chat(service: Service, request: ChatRequest) -> AsyncIterator[Generation]:
    """Yield the generation of the answers to a conversation; leaving the context ends it. Raises ApiError."""
    source, renderer = await service.model(request.model)
    calls = request.plain_tools is not None and OPEN in str(renderer.tokenizer.chat_template)
    if request.must_call and not calls:
        raise _NO_CALLS
    constraint = (request.calls_constraint() if calls else None) or request.constraint()
    ids = await service.in_thread(lambda: _render(renderer, request))
    room = renderer.context_length - len(ids)
    matchers = await _matchers(service, renderer, constraint, request.n)
    prompt = EncodedPrompt(ids, min(request.limit or room, room), matchers)
    # whoever wants no parallel calls gets one: the answer stops where its first call ends
    first_call = (CLOSE,) if calls and request.parallel_tool_calls is False else ()
    async with generate(
        service,
        request,
        variant_of(request, source),
        [prompt],
        stop=(*request.stops, *first_call),
        top_logprobs=request.top_logprobs or 0,
    ) as deltas:
        response_format = ChatFormat(
            request.model, renderer, logprobs=request.logprobs, tools=calls, with_usage=request.with_usage
        )
        yield Generation(request, response_format, len(ids), request.n, deltas)


def _render(renderer: PromptRenderer, request: ChatRequest) -> list[int]:
    """Return the ids of a conversation. Raises ApiError for tools that the chat template does not show."""
    messages = [message.plain() for message in request.messages]
    ids = renderer.render(messages, tools=request.plain_tools)
    if request.plain_tools and ids == renderer.render(messages):
        raise _NO_TOOLS
    return ids


@asynccontextmanager
async def complete(service: Service, request: CompletionRequest) -> AsyncIterator[Generation]:
    """Yield the generation of continuations of texts; leaving the context ends it. Raises ApiError."""
    source, renderer = await service.model(request.model)
    rendered = await service.in_thread(
        lambda: [renderer.render_text(text) for text in request.prompts], prompt="prompt"
    )
    constraint, room = request.constraint(), renderer.context_length
    prompts = [
        EncodedPrompt(
            ids,
            min(request.max_tokens, room - len(ids)),
            await _matchers(service, renderer, constraint, request.n),
        )
        for ids in rendered
    ]
    async with generate(
        service,
        request,
        variant_of(request, source),
        prompts if request.max_tokens else (),
        stop=request.stops,
        top_logprobs=request.logprobs or 0,
    ) as deltas:
        response_format = CompletionFormat(
            request.model,
            renderer,
            logprobs=request.logprobs is not None,
            echoes=[text for text in request.prompts for _ in range(request.n)] if request.echo else (),
            with_usage=request.with_usage,
        )
        count = request.n * len(prompts)
        yield Generation(request, response_format, sum(map(len, rendered)), count, deltas)


async def _matchers(
    service: Service, renderer: PromptRenderer, constraint: Constraint | None, count: int
) -> list[Matcher | None]:
    return [await service.in_thread(lambda: renderer.matcher(constraint)) for _ in range(count)]
