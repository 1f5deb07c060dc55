"""Errors as clients get them: OpenAI's error shape, and never a path or a traceback."""

from __future__ import annotations

import re
from collections.abc import Mapping

from backend.errors import DataError, InferenceError, RunError, TunesmithError
from backend.server.responses import Error

RETRY_SECONDS = 2
_PLAIN_NAME = re.compile(r"[\w.@ -]{1,100}$")
_NOT_FOUND = {"unfinished-run", "no-such-checkpoint", "no-such-run"}
_STATUS = {"queue-full": 429, "busy": 503, "closed": 503, "time-limit": 504} | dict.fromkeys(_NOT_FOUND, 404)
_RETRY_SOON = {"queue-full", "busy"}
_PARAMS = {"bad-strength": "adapter_strength"}
_ABOUT_A_PROMPT = {"empty-prompt", "prompt-too-long", "template-refused", "not-unicode", "no-chat-template"}


class ApiError(Exception):
    """An error as the client gets it: HTTP status, a sentence, the field at fault and a stable code."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> Error:
        """Return the JSON that OpenAI's clients read."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def no_such_model(name: str) -> ApiError:
    """Return the 404 for a model name that is unknown."""
    # a name that is no plain name is not repeated: it could be an attack on whoever reads the message
    shown = name if _PLAIN_NAME.match(name) else "of that name"
    return ApiError(
        404,
        f"There is no model {shown}. GET /v1/models lists those there are.",
        code="model_not_found",
        param="model",
    )


def to_api_error(error: TunesmithError, *, prompt: str = "messages") -> ApiError:
    """Return ``error`` as far as a client may know it; ``prompt`` is the field of the request that holds the prompt.

    Errors about a prompt are passed on as they are. Those about files name paths, so the client gets only their code.
    """
    code = error.code.replace("-", "_")
    if isinstance(error, InferenceError | DataError):
        param = prompt if error.code in _ABOUT_A_PROMPT else _PARAMS.get(error.code)
        headers = {"Retry-After": str(RETRY_SECONDS)} if error.code in _RETRY_SOON else None
        return ApiError(_STATUS.get(error.code, 400), str(error), code=code, param=param, headers=headers)
    if isinstance(error, RunError) and error.code in _NOT_FOUND:
        return ApiError(404, error.message, code=code, param="model")
    return ApiError(
        503, "This model cannot be loaded just now; the server's log says why.", code=code, param="model"
    )


INTERNAL = ApiError(500, "Something went wrong here; the server's log says what.", code="internal_error")
"""The response to a fault of ours; the log has the cause."""
