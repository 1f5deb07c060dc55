"""What a client is refused: backend/server/errors.py."""

from __future__ import annotations

import pytest

from backend.errors import DataError, InferenceError, ModelError, RunError, TunesmithError
from backend.server.errors import INTERNAL, ApiError, no_such_model, to_api_error

SECRET = "/somewhere/private/model"


@pytest.mark.parametrize(
    ("error", "status", "param", "shown"),
    [
        (InferenceError("It is empty.", remedy="Write.", code="empty-prompt"), 400, "messages", "empty. Write."),
        (InferenceError("No.", remedy="", code="bad-strength"), 400, "adapter_strength", "No."),
        (InferenceError("No.", remedy="", code="bad-constraint"), 400, None, "No."),
        (DataError("No.", remedy="", code="template-refused"), 400, "messages", "No."),
        (InferenceError("Ending.", remedy="", code="closed"), 503, None, "Ending."),
        (RunError("The run has no result.", remedy="x", code="unfinished-run"), 404, "model", "no result"),
        (RunError(f"{SECRET} is damaged", remedy=SECRET, code="damaged-run"), 503, "model", "cannot be loaded"),
        (ModelError(f"{SECRET} is damaged", remedy=SECRET, code="damaged-weights"), 503, "model", "cannot be loaded"),
    ],
)  # fmt: skip
def test_what_is_told_of_one_of_ours(error: TunesmithError, status: int, param: str, shown: str) -> None:
    refused = to_api_error(error, prompt="messages")

    assert (refused.status, refused.param) == (status, param)
    assert shown in refused.message
    assert SECRET not in str(refused.body())
    assert refused.body()["error"]["code"] == error.code.replace("-", "_")


def test_an_error_about_a_prompt_names_the_field_it_came_in() -> None:
    error = InferenceError("It is empty.", remedy="Write.", code="empty-prompt")
    assert to_api_error(error, prompt="input").param == "input"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (429, "rate_limit_error"), (503, "server_error")],
)
def test_the_shape_that_openai_clients_read(status: int, kind: str) -> None:
    body = ApiError(status, "No.", code="c", param="p").body()

    assert body == {"error": {"message": "No.", "type": kind, "param": "p", "code": "c"}}


@pytest.mark.parametrize(("name", "shown"), [("abc@1", True), ("x" * 500, False), ("/etc/passwd", False)])
def test_only_a_plain_name_is_said_back(name: str, shown: bool) -> None:
    assert (name in no_such_model(name).message) is shown
    assert no_such_model(name).status == 404


def test_a_fault_of_ours_says_nothing_of_itself() -> None:
    assert INTERNAL.status == 500
    assert "log" in INTERNAL.message
