"""The OpenAPI document: requests from their schemas, answers as they are."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from backend.server.schemas import (
    ChatRequest,
    CompareRequest,
    CompletionRequest,
    EmbeddingRequest,
    TokenViewRequest,
)

_REFERENCE = "#/components/schemas/{model}"
_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}
_MAYBE_TEXT = {"type": ["string", "null"]}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _const(value: str) -> dict[str, Any]:
    return {"type": "string", "const": value}


_FINISH = {"type": "string", "enum": ["stop", "length"]}
_CHAT_FINISH = {"type": "string", "enum": ["stop", "length", "tool_calls"]}
_CALL = _object(
    {
        "id": _TEXT,
        "type": _const("function"),
        "function": _object({"name": _TEXT, "arguments": _TEXT}),
    }
)
_USAGE = _object({"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT})
_ALTERNATIVE = {"token": _TEXT, "logprob": _NUMBER, "bytes": {"type": ["array", "null"]}}
_CHAT_LOGPROBS = {
    "anyOf": [
        {"type": "null"},
        _object(
            {
                "content": _list(_object({**_ALTERNATIVE, "top_logprobs": _list(_object(_ALTERNATIVE))})),
                "refusal": {"type": "null"},
            }
        ),
    ]
}
_MESSAGE = _object(
    {"role": _const("assistant"), "content": _MAYBE_TEXT, "refusal": {"type": "null"}},
    {"tool_calls": _list(_CALL)},
)
_HEAD = {"id": _TEXT, "created": _COUNT, "model": _TEXT}
_TEXT_LOGPROBS = {
    "anyOf": [
        {"type": "null"},
        _object(
            {
                "tokens": _list(_TEXT),
                "token_logprobs": _list(_NUMBER),
                "top_logprobs": _list({"type": "object", "additionalProperties": _NUMBER}),
                "text_offset": _list(_COUNT),
            }
        ),
    ]
}
_LIKELY = {"id": _COUNT, "text": _TEXT, "logprob": _NUMBER, "probability": _NUMBER}
_JUDGED = _object(
    {
        **_LIKELY,
        "special": {"type": "boolean"},
        "entropy": _NUMBER,
        "top": _list(_object(_LIKELY)),
    }
)
_PROMPT = _object(
    {"text": _TEXT, "tokens": _list(_object({"id": _COUNT, "text": _TEXT, "special": {"type": "boolean"}}))}
)
_ANSWER = {"text": _TEXT, "finish_reason": _FINISH, "tokens": _list(_JUDGED)}
_SIDE = _object({"model": _TEXT, **_ANSWER})
_MODEL = _object(
    {
        "id": _TEXT,
        "object": _const("model"),
        "created": _COUNT,
        "owned_by": _TEXT,
        "name": _TEXT,
        "base_model": _TEXT,
        "checkpoints": _list(_COUNT),
        "best_checkpoint": {"type": ["integer", "null"]},
    }
)
RESPONSES: dict[str, dict[str, Any]] = {
    "Error": _object(
        {"error": _object({"message": _TEXT, "type": _TEXT, "param": _MAYBE_TEXT, "code": _MAYBE_TEXT})}
    ),
    "Health": _object({"status": _const("ok"), "instance": _TEXT, "version": _TEXT}),
    "Model": _MODEL,
    "Models": _object({"object": _const("list"), "data": _list(_MODEL)}),
    "ChatCompletion": _object(
        {
            **_HEAD,
            "object": _const("chat.completion"),
            "choices": _list(
                _object(
                    {
                        "index": _COUNT,
                        "message": _MESSAGE,
                        "finish_reason": _CHAT_FINISH,
                        "logprobs": _CHAT_LOGPROBS,
                    }
                )
            ),
            "usage": _USAGE,
        }
    ),
    "Completion": _object(
        {
            **_HEAD,
            "object": _const("text_completion"),
            "choices": _list(
                _object(
                    {"index": _COUNT, "text": _TEXT, "finish_reason": _FINISH, "logprobs": _TEXT_LOGPROBS}
                )
            ),
            "usage": _USAGE,
        }
    ),
    "Embeddings": _object(
        {
            "object": _const("list"),
            "model": _TEXT,
            "data": _list(
                _object(
                    {
                        "object": _const("embedding"),
                        "index": _COUNT,
                        "embedding": {"anyOf": [_list(_NUMBER), _TEXT]},
                    }
                )
            ),
            "usage": _object({"prompt_tokens": _COUNT, "total_tokens": _COUNT}),
        }
    ),
    "TokenView": _object({"model": _TEXT, "prompt": _PROMPT, "answer": _object(_ANSWER)}),
    "Comparison": _object(
        {
            "prompt": _PROMPT,
            "tuned": _SIDE,
            "base": _SIDE,
            "first_difference": {"type": ["integer", "null"]},
            "divergence": _list(
                _object(
                    {
                        "id": _COUNT,
                        "text": _TEXT,
                        "tuned_logprob": _NUMBER,
                        "base_logprob": _NUMBER,
                        "kl": _NUMBER,
                    }
                )
            ),
            "mean_kl": _NUMBER,
        }
    ),
}
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
    """The whole document, OpenAPI 3.1."""
    requests: list[type[BaseModel]] = [
        *(ChatRequest, CompletionRequest, EmbeddingRequest),
        *(TokenViewRequest, CompareRequest),
    ]
    _, schemas = models_json_schema([(model, "validation") for model in requests], ref_template=_REFERENCE)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tunesmith", "version": version},
        "paths": {
            "/v1/models": {"get": _get("listModels", "Models")},
            "/v1/models/{model}": {"get": _get("getModel", "Model", parameter="model")},
            "/v1/chat/completions": {"post": _post("chat", "ChatRequest", "ChatCompletion", streams=True)},
            "/v1/completions": {"post": _post("complete", "CompletionRequest", "Completion", streams=True)},
            "/v1/embeddings": {"post": _post("embed", "EmbeddingRequest", "Embeddings")},
            "/tunesmith/v1/token-view": {"post": _post("tokenView", "TokenViewRequest", "TokenView")},
            "/tunesmith/v1/compare": {"post": _post("compare", "CompareRequest", "Comparison")},
            "/health": {"get": _get("health", "Health")},
            "/metrics": {"get": _get("metrics", "", content={"text/plain": _TEXT})},
        },
        "components": {"schemas": {**schemas["$defs"], **RESPONSES}},
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=name)}


def _responses(content: dict[str, Any], errors: str) -> dict[str, Any]:
    json_error = {"application/json": {"schema": _ref("Error")}}
    return {
        "200": {
            "description": "Done.",
            "content": {kind: {"schema": one} if one else {} for kind, one in content.items()},
        },
        **{status: {"description": _ERRORS[status], "content": json_error} for status in errors.split()},
    }


def _get(
    operation: str, answer: str, *, parameter: str = "", content: dict[str, Any] | None = None
) -> dict[str, Any]:
    content = content or {"application/json": _ref(answer)}
    errors = "401 403" + " 404" * bool(parameter)
    found: dict[str, Any] = {"operationId": operation, "responses": _responses(content, errors)}
    if parameter:
        schema = {"type": "string", "minLength": 1}
        found["parameters"] = [{"name": parameter, "in": "path", "required": True, "schema": schema}]
    return found


def _post(operation: str, request: str, answer: str, *, streams: bool = False) -> dict[str, Any]:
    content = {"application/json": _ref(answer), **({"text/event-stream": {}} if streams else {})}
    return {
        "operationId": operation,
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(request)}}},
        "responses": _responses(content, "400 401 403 404 408 413 415 429 500 503 504"),
    }
