"""The OpenAPI document, derived from the models of requests and responses."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import TypeAdapter

from backend.server import responses
from backend.server.schemas import (
    ChatRequest,
    CompareRequest,
    CompletionRequest,
    EmbeddingRequest,
    TokenViewRequest,
)

_REFERENCE = "#/components/schemas/{model}"
REQUESTS = (ChatRequest, CompletionRequest, EmbeddingRequest, TokenViewRequest, CompareRequest)
RESPONSES = (
    responses.Error,
    responses.Health,
    responses.Model,
    responses.Models,
    responses.ChatCompletion,
    responses.ChatCompletionChunk,
    responses.Completion,
    responses.CompletionChunk,
    responses.Embeddings,
    responses.TokenView,
    responses.Comparison,
)
_ERRORS = {
    "400": "A field is missing, unsupported or out of range.",
    "401": "A token is required.",
    "403": "The Host or Origin is not this machine's.",
    "404": "There is no such model.",
    "408": "The body did not come in time.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "429": "Too many requests are waiting.",
    "500": "A fault of the server.",
    "503": "The model cannot be served just now.",
    "504": "The answer took too long.",
}


def openapi(version: str) -> dict[str, Any]:
    """Return the whole document, OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tunesmith", "version": version},
        "paths": {
            "/v1/models": {"get": _get("listModels", "Models")},
            "/v1/models/{model}": {"get": _get("getModel", "Model", parameter="model")},
            "/v1/chat/completions": {
                "post": _post("chat", "ChatRequest", "ChatCompletion", chunk="ChatCompletionChunk")
            },
            "/v1/completions": {
                "post": _post("complete", "CompletionRequest", "Completion", chunk="CompletionChunk")
            },
            "/v1/embeddings": {"post": _post("embed", "EmbeddingRequest", "Embeddings")},
            "/tunesmith/v1/token-view": {"post": _post("tokenView", "TokenViewRequest", "TokenView")},
            "/tunesmith/v1/compare": {"post": _post("compare", "CompareRequest", "Comparison")},
            "/health": {"get": _health()},
            "/metrics": {"get": _get("metrics", "", content={"text/plain": {"schema": {"type": "string"}}})},
        },
        "components": {"schemas": _schemas()},
    }


def _schemas() -> dict[str, Any]:
    """Return the schemas of all requests, as they are read, and of all responses, as they are written, by name."""
    wanted: list[tuple[str, Literal["validation", "serialization"], TypeAdapter[Any]]] = [
        *((model.__name__, "validation", TypeAdapter(model)) for model in REQUESTS),
        *((model.__name__, "serialization", TypeAdapter(model)) for model in RESPONSES),
    ]
    _, schemas = TypeAdapter.json_schemas(wanted, ref_template=_REFERENCE)
    definitions: dict[str, Any] = schemas["$defs"]
    return definitions


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=name)}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(name)}}


def _responses(content: dict[str, Any], errors: str, *, description: str = "Done.") -> dict[str, Any]:
    return {
        "200": {"description": description, "content": content},
        **{status: {"description": _ERRORS[status], "content": _json("Error")} for status in errors.split()},
    }


def _get(
    operation: str, response: str, *, parameter: str = "", content: dict[str, Any] | None = None
) -> dict[str, Any]:
    errors = "401 403" + " 404" * bool(parameter)
    found: dict[str, Any] = {
        "operationId": operation,
        "responses": _responses(content or _json(response), errors),
    }
    if parameter:
        schema = {"type": "string", "minLength": 1}
        found["parameters"] = [{"name": parameter, "in": "path", "required": True, "schema": schema}]
    return found


def _health() -> dict[str, Any]:
    found = _get("health", "Health")
    restarting = {"description": "The server is starting to compute again.", "content": _json("Health")}
    return {**found, "responses": {**found["responses"], "503": restarting}}


def _post(operation: str, request: str, response: str, *, chunk: str = "") -> dict[str, Any]:
    """Return an operation; with ``chunk``, the response may be a stream of these.

    OpenAPI 3.1 has no words for the events of a stream, so the sentence names their schema.
    """
    content, description = _json(response), "Done."
    if chunk:
        content["text/event-stream"] = {}
        description += (
            f" In a stream, the data of each event is a {chunk} or an Error; that of the last is [DONE]."
        )
    return {
        "operationId": operation,
        "requestBody": {"required": True, "content": _json(request)},
        "responses": _responses(
            content, "400 401 403 404 408 413 415 429 500 503 504", description=description
        ),
    }
