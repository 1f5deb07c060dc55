"""What a client is told when something cannot be done: OpenAI's error shape, and never a path or a traceback."""

from __future__ import annotations

import re
from collections.abc import Mapping

from backend.errors import DataError, InferenceError, RunError, TunesmithError

_PLAIN = re.compile(r"[\w.@ -]{1,100}$")
_STATUS = {"closed": 503, "unfinished-run": 404, "no-such-checkpoint": 404, "no-such-run": 404}
_PARAMS = {"bad-strength": "adapter_strength"}
_OF_A_PROMPT = {"empty-prompt", "prompt-too-long", "template-refused", "not-unicode", "no-chat-template"}


class ApiError(Exception):
    """An answer that is an error: HTTP status, a sentence, the field at fault and a stable code."""

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

    def body(self) -> dict[str, object]:
        """The JSON that OpenAI's clients read."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def no_such_model(name: str) -> ApiError:
    """404 for a name that nothing answers to."""
    shown = name if _PLAIN.match(name) else "of that name"
    return ApiError(
        404,
        f"There is no model {shown}. GET /v1/models lists those there are.",
        code="model_not_found",
        param="model",
    )


def translated(error: TunesmithError, *, prompt: str) -> ApiError:
    """What a client may know of one of our errors; ``prompt`` is the field that a prompt came in.

    Those about a prompt speak for themselves. Those about files name paths, so only their kind is told.
    """
    code = error.code.replace("-", "_")
    if isinstance(error, InferenceError | DataError):
        param = prompt if error.code in _OF_A_PROMPT else _PARAMS.get(error.code)
        return ApiError(_STATUS.get(error.code, 400), str(error), code=code, param=param)
    if isinstance(error, RunError) and error.code in _STATUS:
        return ApiError(404, error.message, code=code, param="model")
    return ApiError(
        503, "This model cannot be loaded just now; the server's log says why.", code=code, param="model"
    )


INTERNAL = ApiError(500, "Something went wrong here; the server's log says what.", code="internal_error")
"""What is told of a fault of ours."""
