"""From a request to its answer: find the model, render, wait for a turn, and hand on what comes."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from backend.errors import TunesmithError
from backend.inference.constraint import Constraint
from backend.inference.model_source import ModelSource
from backend.inference.prompting import PromptRenderer
from backend.inference.sampling import Matcher
from backend.inferencer import answer_seed
from backend.server.catalogue import Catalogue
from backend.server.engine import Engine
from backend.server.errors import INTERNAL, ApiError, translated
from backend.server.jobs import Failure, Job, Piece, Variant
from backend.server.metrics import Metrics
from backend.server.schemas import ChatRequest, CompletionRequest, Generation, Streamed
from backend.server.tool_calls import CLOSE, OPEN
from backend.server.wording import ChatWords, TextWords, Words, usage

Result = TypeVar("Result")
RETRY_SECONDS = 2
GRACE_SECONDS = 5.0
"""An answer that is late is told so by the engine; so much later nobody waits for it any more."""
_SILENT = ApiError(504, "This answer took too long. Ask for less.", code="time_limit")
_log = logging.getLogger("tunesmith.server")
_NO_TOOLS = ApiError(
    400,
    "tools: This model's chat template shows no tools, so it would not know of them; leave them away.",
    code="tools_not_shown",
    param="tools",
)
_NO_CALLS = ApiError(
    400,
    "tool_choice: This model's chat template knows no form of a call that an answer could be held to.",
    code="calls_not_known",
    param="tool_choice",
)


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

    async def in_thread(self, work: Callable[[], Result], *, prompt: str = "messages") -> Result:
        """``work`` in a thread, one at a time: it must not hold up the loop.

        Raises ApiError; one about a prompt names the field ``prompt``.
        """
        return await self.wait(self._aside.submit(work), prompt=prompt)

    def close(self) -> None:
        """End the threads; whoever still waits is told that the server is ending."""
        self._aside.shutdown(cancel_futures=True)
        self.engine.close()

    async def wait(self, future: Future[Result], *, prompt: str = "messages") -> Result:
        """Return the result of something that is done in another thread. Raises ApiError."""
        try:
            return await asyncio.wrap_future(future)
        except TunesmithError as error:
            raise _refusal(error, prompt) from error
        except (ApiError, asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except (
            BaseException
        ) as error:  # a panic in the code of a library is no Exception, and told all the same
            _log.exception("a request failed")
            raise INTERNAL from error

    async def model(self, name: str) -> tuple[ModelSource, PromptRenderer]:
        """What a name stands for and how it is spoken to; it is loaded if need be. Raises ApiError."""
        source = await self.in_thread(lambda: self.catalogue.find(name))
        return source, await self.wait(self.engine.renderer(source))


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
    """News of one request, from the engine's thread to the loop, for at most so many ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + seconds
        self._news: asyncio.Queue[Sequence[Piece | Failure]] = asyncio.Queue()

    def deliver(self, news: Sequence[Piece | Failure]) -> None:
        """Called by the engine."""
        try:
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)
        except RuntimeError:  # the loop has ended, and with it whoever waited
            return

    async def next(self) -> Sequence[Piece]:
        """Return what came in one step. Raises ApiError when the job failed, or when nothing came in time."""
        try:
            async with asyncio.timeout_at(self._until):
                news = await self._news.get()
        except TimeoutError as error:
            raise _SILENT from error
        for each in news:
            if isinstance(each, Failure):
                raise INTERNAL if each.error is None else _refusal(each.error)
        return [each for each in news if isinstance(each, Piece)]


@dataclass(frozen=True)
class Asked:
    """One prompt: its ids, the most new tokens of an answer, and what holds each of its answers to a form."""

    ids: list[int]
    limit: int
    matchers: Sequence[Matcher | None] = (None,)


@asynccontextmanager
async def answering(
    service: Service,
    request: Generation,
    variant: Variant,
    prompts: Sequence[Asked],
    *,
    stop: Sequence[str] = (),
    top_logprobs: int = 0,
) -> AsyncIterator[AsyncIterator[Piece]]:
    """What comes, until every answer has ended; leaving ends the work within one token. Raises ApiError.

    With a seed, the answers to a prompt are the same whether it is asked alone or beside others. Without one they are
    numbered through the request, so that equal prompts are answered differently.
    """
    seed = secrets.randbits(62) if request.fixed_seed is None else request.fixed_seed
    ticket, began = Ticket(service.seconds + GRACE_SECONDS), time.monotonic()
    jobs: list[Job] = []
    count = 0
    for asked in prompts:
        start = count if request.fixed_seed is None else 0
        samplings = [
            request.sampling(
                seed=answer_seed(seed, start + index), max_new_tokens=asked.limit, top_logprobs=top_logprobs
            )
            for index in range(len(asked.matchers))
        ]
        deadline = began + service.seconds
        jobs.append(Job(variant, asked.ids, samplings, asked.matchers, stop, ticket, count, deadline))
        count += len(samplings)
    _submit(service.engine, jobs)
    try:
        yield _pieces(service.metrics, ticket, count, began)
    finally:
        _cancel(jobs)
        service.metrics.duration.observe(time.monotonic() - began)


def _submit(engine: Engine, jobs: Sequence[Job]) -> None:
    """Let all of them wait for their turn, or none. Raises ApiError."""
    try:
        for job in jobs:
            engine.submit(job)
    except TunesmithError as error:
        _cancel(jobs)
        raise _refusal(error) from error


def _cancel(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.cancelled = True


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
    """A request that was let in: what comes, how to put it, and how many answers that will be."""

    request: Streamed
    words: Words
    prompt_tokens: int
    count: int
    pieces: AsyncIterator[Piece]

    async def whole(self) -> dict[str, Any]:
        """The whole answer as one object."""
        said: list[list[Piece]] = [[] for _ in range(self.count)]
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
        for opening in map(self.words.opening, range(self.count)):
            if opening is not None:
                yield {**head, "choices": [opening]}
        written = 0
        async for piece in self.pieces:
            written += 1
            said = self.words.said(piece)
            if said is not None:
                yield {**head, "choices": [said]}
            if piece.finish:
                yield {**head, "choices": [self.words.ended(piece.choice, piece.finish)]}
        for unwritten in range(0 if written else self.count):  # max_tokens is 0
            yield {**head, "choices": [self.words.ended(unwritten, "length")]}
        if self.request.with_usage:
            yield {**head, "choices": [], "usage": usage(self.prompt_tokens, written)}


@asynccontextmanager
async def chat(service: Service, request: ChatRequest) -> AsyncIterator[Answering]:
    """The answer to a conversation; leaving ends the work. Raises ApiError."""
    source, renderer = await service.model(request.model)
    calls = request.plain_tools is not None and OPEN in str(renderer.tokenizer.chat_template)
    if request.must_call and not calls:
        raise _NO_CALLS
    constraint = (request.calls_constraint() if calls else None) or request.constraint()
    ids = await service.in_thread(lambda: _conversation(renderer, request))
    room = renderer.context_length - len(ids)
    asked = Asked(
        ids, min(request.limit or room, room), await _matchers(service, renderer, constraint, request.n)
    )
    one_call = (CLOSE,) if calls and request.parallel_tool_calls is False else ()
    async with answering(
        service,
        request,
        variant_of(request, source),
        [asked],
        stop=(*request.stops, *one_call),
        top_logprobs=request.top_logprobs or 0,
    ) as coming:
        words = ChatWords(request.model, renderer, logprobs=request.logprobs, tools=calls)
        yield Answering(request, words, len(ids), request.n, coming)


def _conversation(renderer: PromptRenderer, request: ChatRequest) -> list[int]:
    """The ids of a conversation. Raises ApiError where the template says nothing of tools that are to be shown."""
    messages = [message.plain() for message in request.messages]
    ids = renderer.render(messages, tools=request.plain_tools)
    if request.plain_tools and ids == renderer.render(messages):
        raise _NO_TOOLS
    return ids


@asynccontextmanager
async def complete(service: Service, request: CompletionRequest) -> AsyncIterator[Answering]:
    """The continuation of one text or several; leaving ends the work. Raises ApiError."""
    source, renderer = await service.model(request.model)
    rendered = await service.in_thread(
        lambda: [renderer.render_text(text) for text in request.prompts], prompt="prompt"
    )
    form, room = request.constraint(), renderer.context_length
    asked = [
        Asked(
            ids, min(request.max_tokens, room - len(ids)), await _matchers(service, renderer, form, request.n)
        )
        for ids in rendered
    ]
    async with answering(
        service,
        request,
        variant_of(request, source),
        asked if request.max_tokens else (),
        stop=request.stops,
        top_logprobs=request.logprobs or 0,
    ) as coming:
        echoes = [text for text in request.prompts for _ in range(request.n)] if request.echo else ()
        words = TextWords(request.model, renderer, logprobs=request.logprobs is not None, echoes=echoes)
        count = request.n * len(asked)
        yield Answering(request, words, sum(map(len, rendered)), count, coming)


async def _matchers(
    service: Service, renderer: PromptRenderer, constraint: Constraint | None, count: int
) -> list[Matcher | None]:
    return [await service.in_thread(lambda: renderer.matcher(constraint)) for _ in range(count)]
