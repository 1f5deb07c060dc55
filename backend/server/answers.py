"""From a request to its answer: find the model, render, wait for a turn, and hand on what comes."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from backend.core.sampling import Matcher
from backend.errors import TunesmithError
from backend.inferencer import answer_seed
from backend.model_source import ModelSource
from backend.server.catalogue import Catalogue
from backend.server.engine import Engine
from backend.server.errors import INTERNAL, ApiError, translated
from backend.server.jobs import Failure, Job, Piece, Variant
from backend.server.metrics import Metrics
from backend.server.schemas import ChatRequest, CompletionRequest, Generation, Streamed
from backend.server.tool_calls import OPEN
from backend.server.wording import ChatWords, TextWords, Words, usage
from backend.voice import Voice

Result = TypeVar("Result")
RETRY_SECONDS = 2


@dataclass
class Service:
    """What the handlers stand on. ``seconds`` is the longest an answer may take."""

    engine: Engine
    catalogue: Catalogue
    metrics: Metrics
    seconds: float
    instance: str
    version: str
    _aside: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "aside"))

    async def aside(self, work: Callable[[], Result], *, prompt: str = "messages") -> Result:
        """``work`` in a thread, one at a time: it must not hold up the loop.

        Raises ApiError; one about a prompt names the field ``prompt``.
        """
        return await self.wait(self._aside.submit(work), prompt=prompt)

    def close(self) -> None:
        """End the threads; whoever still waits is told that the server is ending."""
        self._aside.shutdown(cancel_futures=True)
        self.engine.close()

    async def wait(self, future: Future[Result], *, prompt: str = "messages") -> Result:
        """The result of something the engine was asked for. Raises ApiError."""
        try:
            return await asyncio.wrap_future(future)
        except TunesmithError as error:
            raise _refusal(error, prompt) from error

    async def model(self, name: str) -> tuple[ModelSource, Voice]:
        """What a name stands for and how it is spoken to; it is loaded if need be. Raises ApiError."""
        source = await self.aside(lambda: self.catalogue.find(name))
        return source, await self.wait(self.engine.voice(source))


def variant_of(request: Generation, source: ModelSource) -> Variant:
    """Which weights answer. Raises ApiError for a strength where there is no adapter."""
    if source.adapter is None:
        if request.adapter_strength != 1:
            raise ApiError(
                400,
                "adapter_strength: This model has no adapter that could be weaker or stronger.",
                code="bad_strength",
                param="adapter_strength",
            )
        return source, 1.0
    return source, request.adapter_strength


def _refusal(error: TunesmithError, prompt: str = "messages") -> ApiError:
    code, told = error.code.replace("-", "_"), {"Retry-After": str(RETRY_SECONDS)}
    if error.code == "queue-full":
        return ApiError(429, str(error), code=code, headers=told)
    if error.code == "busy":
        return ApiError(503, str(error), code=code, headers=told)
    if error.code == "time-limit":
        return ApiError(504, str(error), code=code)
    return translated(error, prompt=prompt)


class Ticket:
    """News of one job, from the engine's thread to the loop of the request."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[Sequence[Piece | Failure]] = asyncio.Queue()

    def deliver(self, news: Sequence[Piece | Failure]) -> None:
        """Called by the engine."""
        try:
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)
        except RuntimeError:  # the loop has ended, and with it whoever waited
            return

    async def next(self) -> Sequence[Piece]:
        """What came in one step. Raises ApiError when the job failed."""
        news = await self._news.get()
        for each in news:
            if isinstance(each, Failure):
                raise INTERNAL if each.error is None else _refusal(each.error)
        return [each for each in news if isinstance(each, Piece)]


@asynccontextmanager
async def answering(
    service: Service,
    request: Generation,
    variant: Variant,
    prompt: list[int],
    *,
    limit: int,
    matchers: Sequence[Matcher | None] = (None,),
    stop: Sequence[str] = (),
    top_logprobs: int = 0,
) -> AsyncIterator[AsyncIterator[Piece]]:
    """What comes, until every answer has ended; leaving ends the work within one token. Raises ApiError."""
    seed = secrets.randbits(62) if request.seed is None else request.seed
    samplings = [
        request.sampling(seed=answer_seed(seed, index), max_new_tokens=limit, top_logprobs=top_logprobs)
        for index in range(len(matchers))
    ]
    ticket, began = Ticket(), time.monotonic()
    job = Job(variant, prompt, samplings, matchers, stop, ticket, deadline=began + service.seconds)
    try:
        service.engine.submit(job)
    except TunesmithError as error:
        raise _refusal(error) from error
    try:
        yield _pieces(service.metrics, ticket, len(samplings), began)
    finally:
        job.cancelled = True
        service.metrics.duration.observe(time.monotonic() - began)


async def _pieces(metrics: Metrics, ticket: Ticket, going: int, began: float) -> AsyncIterator[Piece]:
    first = True
    while going:
        for piece in await ticket.next():
            if first:
                metrics.first_token.observe(time.monotonic() - began)
            first = False
            going -= bool(piece.finish)
            yield piece


@dataclass(frozen=True)
class Answering:
    """A request that was let in: what comes, and how to put it."""

    request: Streamed
    words: Words
    prompt_tokens: int
    pieces: AsyncIterator[Piece]

    async def whole(self) -> dict[str, Any]:
        """The whole answer as one object."""
        said: list[list[Piece]] = [[] for _ in range(self.request.n)]
        async for piece in self.pieces:
            said[piece.choice].append(piece)
        choices = [self.words.choice(index, parts) for index, parts in enumerate(said)]
        cost = usage(self.prompt_tokens, sum(map(len, said)))
        return {**self.words.head(), "choices": choices, "usage": cost}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The answer as chunks of a stream."""
        head = self.words.head(chunk=True)
        if self.request.with_usage:
            head["usage"] = None
        for opening in map(self.words.opening, range(self.request.n)):
            if opening is not None:
                yield {**head, "choices": [opening]}
        written = 0
        async for piece in self.pieces:
            written += 1
            said = self.words.said(piece)
            if said is not None:
                yield {**head, "choices": [said]}
            if piece.finish:
                yield {**head, "choices": [self.words.ended(piece)]}
        if self.request.with_usage:
            yield {**head, "choices": [], "usage": usage(self.prompt_tokens, written)}


@asynccontextmanager
async def chat(service: Service, request: ChatRequest) -> AsyncIterator[Answering]:
    """The answer to a conversation; leaving ends the work. Raises ApiError."""
    source, voice = await service.model(request.model)
    messages = [message.plain() for message in request.messages]
    prompt = await service.aside(lambda: voice.render(messages, tools=request.plain_tools))
    calls = bool(request.plain_tools) and OPEN in str(voice.tokenizer.chat_template)
    words = ChatWords(request.model, voice, logprobs=request.logprobs, tools=calls)
    room = voice.context_length - len(prompt)
    async with answering(
        service,
        request,
        variant_of(request, source),
        prompt,
        limit=min(request.limit or room, room),
        matchers=await _matchers(service, request, voice),
        stop=request.stops,
        top_logprobs=request.top_logprobs or 0,
    ) as coming:
        yield Answering(request, words, len(prompt), coming)


@asynccontextmanager
async def complete(service: Service, request: CompletionRequest) -> AsyncIterator[Answering]:
    """The continuation of a text; leaving ends the work. Raises ApiError."""
    source, voice = await service.model(request.model)
    prompt = await service.aside(lambda: voice.render_text(request.prompt), prompt="prompt")
    words = TextWords(request.model, voice, logprobs=request.logprobs is not None)
    async with answering(
        service,
        request,
        variant_of(request, source),
        prompt,
        limit=min(request.max_tokens, voice.context_length - len(prompt)),
        matchers=await _matchers(service, request, voice),
        stop=request.stops,
        top_logprobs=request.logprobs or 0,
    ) as coming:
        yield Answering(request, words, len(prompt), coming)


async def _matchers(service: Service, request: Streamed, voice: Voice) -> list[Matcher | None]:
    constraint = request.constraint()
    return [await service.aside(lambda: voice.matcher(constraint)) for _ in range(request.n)]
