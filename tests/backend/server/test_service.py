"""Errors of other threads, adapter strengths and health: backend/server/service.py."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest
from starlette.requests import Request

from backend.errors import InferenceError, ModelError, TunesmithError
from backend.inference.model_source import find_model
from backend.run.folder import RunDir
from backend.server.app import _health
from backend.server.engine import Engine
from backend.server.errors import ApiError
from backend.server.schemas import GenerationRequest
from backend.server.service import Service, variant_of
from tests.eventually import eventually


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (InferenceError("Full.", remedy="", code="queue-full"), 429, "2"),
        (InferenceError("Busy.", remedy="", code="busy"), 503, "2"),
        (InferenceError("Late.", remedy="", code="time-limit"), 504, None),
        (InferenceError("Bad.", remedy="", code="bad-sampling"), 400, None),
        (ModelError("Gone.", remedy="", code="damaged-weights"), 503, None),
    ],
)
def test_an_error_of_the_engine_becomes_a_response(
    service: Service, error: TunesmithError, status: int, retry: str | None
) -> None:
    future: Future[None] = Future()
    future.set_exception(error)

    with pytest.raises(ApiError) as caught:
        asyncio.run(service.wait(future))

    assert (caught.value.status, caught.value.headers.get("Retry-After")) == (status, retry)


def test_an_error_in_the_worker_thread_becomes_a_response(service: Service) -> None:
    def work() -> None:
        raise InferenceError("No.", remedy="", code="empty-prompt")

    with pytest.raises(ApiError) as caught:
        asyncio.run(service.in_thread(work, prompt="input"))

    assert (caught.value.status, caught.value.param) == (400, "input")
    assert asyncio.run(service.in_thread(lambda: 5)) == 5


class _PanicError(BaseException):
    """What a panic in Rust code is to Python."""


def test_a_panic_in_the_worker_thread_becomes_a_response_and_ends_nothing(service: Service) -> None:
    def work() -> None:
        raise _PanicError

    with pytest.raises(ApiError) as caught:
        asyncio.run(service.in_thread(work))

    assert caught.value.status == 500
    assert asyncio.run(service.in_thread(lambda: 5)) == 5


def test_an_unknown_model_is_refused(service: Service) -> None:
    with pytest.raises(ApiError) as caught:
        asyncio.run(service.model("nothing"))

    assert (caught.value.status, caught.value.param) == (404, "model")


def test_a_dead_engine_shows_in_health_and_is_replaced(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(_: Engine) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_turn", end)
        service.engine._queue_task(lambda: None)
        eventually(lambda: not service.engine.is_alive)

    responses = [asyncio.run(_health(service, Request({"type": "http"}))) for _ in range(2)]

    assert [response.status_code for response in responses] == [503, 200]
    assert service.engine._queue_task(lambda: 5).result(60) == 5


def test_strength_is_that_of_an_adapter(trained: RunDir) -> None:
    tuned, base = find_model(trained), find_model(trained, base=True)

    assert variant_of(GenerationRequest(model="r", adapter_strength=0.5), tuned) == (tuned, 0.5)
    assert variant_of(GenerationRequest(model="base"), base) == (base, 1.0)
    with pytest.raises(ApiError) as caught:
        variant_of(GenerationRequest(model="base", adapter_strength=0.5), base)
    assert caught.value.param == "adapter_strength"
