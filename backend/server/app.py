"""The routes. A handler parses, calls one function, and puts the result on the wire."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from backend.server import answers, embeddings, inspection
from backend.server.answers import Answering, Service
from backend.server.catalogue import Served
from backend.server.errors import INTERNAL, ApiError
from backend.server.guard import Guard, gone, read_body
from backend.server.metrics import CONTENT_TYPE
from backend.server.openapi import openapi
from backend.server.parsing import parse
from backend.server.schemas import (
    ChatRequest,
    CompareRequest,
    CompletionRequest,
    EmbeddingRequest,
    TokenViewRequest,
)

BODY_BYTES = 2**20
BODY_SECONDS = 30.0
_CLIENT_GONE = 499
_SAID = {
    404: "There is no such endpoint; GET /openapi.json lists those there are.",
    405: "This endpoint wants another method.",
}
_log = logging.getLogger("tunesmith.server")
Handler = Callable[[Service, Request], Awaitable[Response]]


def make_app(service: Service, *, loopback: bool, token: str | None) -> Starlette:
    """The application over ``service``, whose engine it starts and ends."""
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
            HTTPException: _told(_refused),
            ApiError: _told(lambda error: error),
            Exception: _fault,
        },
        lifespan=life,
    )


async def _models(service: Service, _: Request) -> Response:
    found = await service.in_thread(service.catalogue.served)
    return JSONResponse({"object": "list", "data": [_shown(each) for each in found]})


async def _model(service: Service, request: Request) -> Response:
    name = request.path_params["name"]
    return JSONResponse(_shown(await service.in_thread(lambda: service.catalogue.describe(name))))


def _shown(served: Served) -> dict[str, Any]:
    return {**asdict(served), "object": "model", "owned_by": "tunesmith"}


async def _chat(service: Service, request: Request) -> Response:
    wanted = parse(ChatRequest, await _body(request))
    return await _answered(request, answers.chat(service, wanted), stream=wanted.stream)


async def _complete(service: Service, request: Request) -> Response:
    wanted = parse(CompletionRequest, await _body(request))
    return await _answered(request, answers.complete(service, wanted), stream=wanted.stream)


async def _embed(service: Service, request: Request) -> Response:
    wanted = parse(EmbeddingRequest, await _body(request))
    return JSONResponse(await _unless_gone(request, embeddings.embed(service, wanted)))


async def _token_view(service: Service, request: Request) -> Response:
    wanted = parse(TokenViewRequest, await _body(request))
    return JSONResponse(await _unless_gone(request, inspection.token_view(service, wanted)))


async def _compare(service: Service, request: Request) -> Response:
    wanted = parse(CompareRequest, await _body(request))
    return JSONResponse(await _unless_gone(request, inspection.compare(service, wanted)))


async def _health(service: Service, _: Request) -> Response:
    told = {"instance": service.instance, "version": service.version}
    if service.engine.is_alive:
        return JSONResponse({"status": "ok", **told})
    service.engine.revive()
    return JSONResponse({"status": "restarting", **told}, 503)


async def _metrics(service: Service, _: Request) -> Response:
    return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


async def _body(request: Request) -> bytes:
    return await read_body(request, limit=BODY_BYTES, seconds=BODY_SECONDS)


async def _answered(
    request: Request, coming: AbstractAsyncContextManager[Answering], *, stream: bool
) -> Response:
    """The answer as one object or, once it was let in, as a stream of events; a client who leaves ends it."""
    if not stream:

        async def whole() -> dict[str, Any]:
            async with coming as answering:
                return await answering.whole()

        return JSONResponse(await _unless_gone(request, whole()))
    stack = AsyncExitStack()
    return _Events(await stack.enter_async_context(coming), stack)


class _Events(StreamingResponse):
    """An answer as events. ``held`` is let go in any case, even where the client went before the first of them."""

    def __init__(self, answering: Answering, held: AsyncExitStack) -> None:
        self._held = held
        super().__init__(
            _events(answering), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


async def _events(answering: Answering) -> AsyncIterator[str]:
    try:
        async for chunk in answering.chunks():
            yield _event(chunk)
    except ApiError as error:
        yield _event(error.body())
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _unless_gone(request: Request, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The result of ``work``, which ends when the client goes. Raises ClientDisconnect then."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(gone(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, leaving):
            each.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


def _counted(service: Service, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """``handler``, its requests counted by endpoint and status."""

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


def _told(read: Callable[[Any], ApiError]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def tell(_: Request, error: Exception) -> Response:
        refused = read(error)
        return JSONResponse(refused.body(), refused.status, headers=refused.headers)

    return tell


def _refused(error: HTTPException) -> ApiError:
    said = _SAID.get(error.status_code, "The request cannot be read.")
    return ApiError(error.status_code, said, code="bad_request", headers=error.headers)


async def _fault(_: Request, error: Exception) -> Response:
    _log.error("a request failed", exc_info=error)
    return JSONResponse(INTERNAL.body(), INTERNAL.status)
