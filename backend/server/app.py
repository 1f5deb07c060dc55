"""The routes and their handlers: each parses its request, calls one function and sends what that returns."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from backend.server import embeddings, generation, inspection
from backend.server.errors import INTERNAL, ApiError
from backend.server.generation import Generation
from backend.server.guard import Guard, disconnected, read_body
from backend.server.metrics import CONTENT_TYPE
from backend.server.openapi import openapi
from backend.server.parsing import parse
from backend.server.responses import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    Error,
    Health,
    Models,
)
from backend.server.schemas import (
    ChatRequest,
    CompareRequest,
    CompletionRequest,
    EmbeddingRequest,
    TokenViewRequest,
)
from backend.server.service import Service

BODY_BYTES = 2**20
BODY_SECONDS = 30.0
_CLIENT_GONE = 499
"""A status for the metrics alone, as nginx counts it: nobody is left to read it."""
_HTTP_MESSAGES = {
    404: "There is no such endpoint; GET /openapi.json lists those there are.",
    405: "This endpoint wants another method; GET /openapi.json lists them.",
}
_log = logging.getLogger("tunesmith.server")
Result = TypeVar("Result")
Handler = Callable[[Service, Request], Awaitable[Response]]


def make_app(service: Service, *, loopback: bool, token: str | None) -> Starlette:
    """Return the application over ``service``, whose engine it starts and ends."""
    document = openapi(service.version)

    async def describe(_: Request) -> Response:
        return JSONResponse(document)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        service.engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.close)

    def route(path: str, handler: Handler, *methods: str) -> Route:
        return Route(path, _counted(service, handler), methods=list(methods) or None)

    return Starlette(
        routes=[
            route("/v1/models", _models),
            route("/v1/models/{name:path}", _model),
            route("/v1/chat/completions", _chat, "POST"),
            route("/v1/completions", _complete, "POST"),
            route("/v1/embeddings", _embed, "POST"),
            route("/tunesmith/v1/token-view", _token_view, "POST"),
            route("/tunesmith/v1/compare", _compare, "POST"),
            route("/health", _health),
            route("/metrics", _metrics),
            Route("/openapi.json", describe),
        ],
        middleware=[Middleware(Guard, loopback=loopback, token=token)],
        exception_handlers={
            HTTPException: _error_handler(_from_http),
            ApiError: _error_handler(lambda error: error),
            Exception: _internal_error,
        },
        lifespan=life,
    )


async def _models(service: Service, _: Request) -> Response:
    served = await service.in_thread(service.catalogue.served)
    models: Models = {"object": "list", "data": [each.response() for each in served]}
    return JSONResponse(models)


async def _model(service: Service, request: Request) -> Response:
    name = request.path_params["name"]
    served = await service.in_thread(lambda: service.catalogue.describe(name))
    return JSONResponse(served.response())


async def _chat(service: Service, request: Request) -> Response:
    chat = parse(ChatRequest, await _body(request))
    return await _respond(request, generation.chat(service, chat), stream=chat.stream)


async def _complete(service: Service, request: Request) -> Response:
    completion = parse(CompletionRequest, await _body(request))
    return await _respond(request, generation.complete(service, completion), stream=completion.stream)


async def _embed(service: Service, request: Request) -> Response:
    texts = parse(EmbeddingRequest, await _body(request))
    return JSONResponse(await _until_disconnect(request, embeddings.embed(service, texts)))


async def _token_view(service: Service, request: Request) -> Response:
    view = parse(TokenViewRequest, await _body(request))
    return JSONResponse(await _until_disconnect(request, inspection.token_view(service, view)))


async def _compare(service: Service, request: Request) -> Response:
    comparison = parse(CompareRequest, await _body(request))
    return JSONResponse(await _until_disconnect(request, inspection.compare(service, comparison)))


async def _health(service: Service, _: Request) -> Response:
    alive = service.engine.is_alive
    health: Health = {
        "status": "ok" if alive else "restarting",
        "instance": service.instance,
        "version": service.version,
        "precision": service.engine.precision,
    }
    if not alive:
        service.engine.revive()
    return JSONResponse(health, 200 if alive else 503)


async def _metrics(service: Service, _: Request) -> Response:
    return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


async def _body(request: Request) -> bytes:
    return await read_body(request, limit=BODY_BYTES, seconds=BODY_SECONDS)


async def _respond(
    request: Request, accepted: AbstractAsyncContextManager[Generation], *, stream: bool
) -> Response:
    """Return the response as one object or, once the request was accepted, as a stream of events.

    A client that disconnects ends the generation either way.
    """
    if not stream:

        async def whole() -> ChatCompletion | Completion:
            async with accepted as running:
                return await running.response()

        return JSONResponse(await _until_disconnect(request, whole()))
    # entered here and not in the stream: what is refused must become an error status, not a 200 with an error in it
    stack = AsyncExitStack()
    return _EventStream(await stack.enter_async_context(accepted), stack)


class _EventStream(StreamingResponse):
    """A generation as server-sent events. ``held`` is closed even where the client left before the first of them."""

    def __init__(self, running: Generation, held: AsyncExitStack) -> None:
        self._held = held
        super().__init__(
            _events(running), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


async def _events(running: Generation) -> AsyncIterator[str]:
    try:
        async for chunk in running.chunks():
            yield _event(chunk)
    except ApiError as error:  # the status is sent already, so the error is an event of its own
        yield _event(error.body())
    yield "data: [DONE]\n\n"


def _event(value: ChatCompletionChunk | CompletionChunk | Error) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _until_disconnect(request: Request, work: Awaitable[Result]) -> Result:
    """Return the result of ``work``; cancel it and raise ClientDisconnect when the client goes first."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, leaving):
            each.cancel()
        # waited for, so that the generation has let go of its rows before anything else happens
        await asyncio.gather(task, leaving, return_exceptions=True)


def _counted(service: Service, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Return ``handler`` with its requests counted by endpoint and status."""

    async def handle(request: Request) -> Response:
        status = 500
        try:
            response = await handler(service, request)
            status = response.status_code
        except ApiError as error:
            status = error.status
            raise
        except ClientDisconnect:
            status = _CLIENT_GONE
            return Response(status_code=status)
        finally:
            service.metrics.requests.labels(handler.__name__.strip("_"), str(status)).inc()
        return response

    return handle


def _error_handler(read: Callable[[Any], ApiError]) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return a handler that answers with the ApiError that ``read`` makes of an exception."""

    async def handle(_: Request, error: Exception) -> Response:
        found = read(error)
        return JSONResponse(found.body(), found.status, headers=found.headers)

    return handle


def _from_http(error: HTTPException) -> ApiError:
    message = _HTTP_MESSAGES.get(error.status_code, "The request cannot be read.")
    return ApiError(error.status_code, message, code="bad_request", headers=error.headers)


async def _internal_error(_: Request, error: Exception) -> Response:
    _log.error("a request failed", exc_info=error)
    return JSONResponse(INTERNAL.body(), INTERNAL.status)
