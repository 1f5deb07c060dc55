"""What becomes of errors and strengths on the way: backend/server/answers.py. The way itself is tried over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import cast

import pytest
from starlette.requests import Request

from backend.errors import InferenceError, ModelError, TunesmithError
from backend.inference.model_source import ModelSource, find_model
from backend.run.folder import RunDir
from backend.server.answers import Asked, Service, Ticket, answering, variant_of
from backend.server.app import _health
from backend.server.catalogue import Catalogue
from backend.server.engine import Engine, Limits
from backend.server.errors import ApiError
from backend.server.jobs import Failure, Job
from backend.server.metrics import Metrics
from backend.server.schemas import Generation
from tests.eventually import eventually


@pytest.fixture
def service() -> Iterator[Service]:
    metrics = Metrics()
    engine = Engine(Limits(), metrics)
    engine.start()
    made = Service(engine, Catalogue(None), metrics, 5.0, "me", "1")
    yield made
    made.close()


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
def test_an_error_of_the_engine_is_an_answer(
    service: Service, error: TunesmithError, status: int, retry: str | None
) -> None:
    future: Future[None] = Future()
    future.set_exception(error)

    with pytest.raises(ApiError) as caught:
        asyncio.run(service.wait(future))

    assert (caught.value.status, caught.value.headers.get("Retry-After")) == (status, retry)


def test_work_aside_raises_what_a_client_may_know(service: Service) -> None:
    def work() -> None:
        raise InferenceError("No.", remedy="", code="empty-prompt")

    with pytest.raises(ApiError) as caught:
        asyncio.run(service.in_thread(work))

    assert caught.value.status == 400
    assert asyncio.run(service.in_thread(lambda: 5)) == 5


def test_a_fault_is_told_without_its_cause() -> None:
    async def hear() -> None:
        ticket = Ticket(5.0)
        ticket.deliver([Failure(None)])
        await ticket.next()

    with pytest.raises(ApiError) as caught:
        asyncio.run(hear())
    assert caught.value.status == 500


def test_who_hears_nothing_at_all_is_told_in_the_end() -> None:
    async def hear() -> None:
        await Ticket(0.0).next()

    with pytest.raises(ApiError) as caught:
        asyncio.run(hear())
    assert (caught.value.status, caught.value.code) == (504, "time_limit")


class _PanicError(BaseException):
    """What a panic in Rust code is to Python."""


def test_a_panic_in_another_thread_is_an_answer_and_no_end(service: Service) -> None:
    def work() -> None:
        raise _PanicError

    with pytest.raises(ApiError) as caught:
        asyncio.run(service.in_thread(work))

    assert caught.value.status == 500
    assert asyncio.run(service.in_thread(lambda: 5)) == 5


def test_a_dead_engine_shows_in_health_and_is_replaced(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(_: Engine) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_turn", end)
        service.engine._ask(lambda: None)
        eventually(lambda: not service.engine.is_alive)

    told = [asyncio.run(_health(service, Request({"type": "http"}))) for _ in range(2)]

    assert [response.status_code for response in told] == [503, 200]
    assert service.engine._ask(lambda: 5).result(60) == 5


@pytest.mark.parametrize(("seed", "different"), [(None, 4), (-1, 4), (7, 1)])
def test_equal_prompts_of_one_request_differ_unless_a_seed_was_given(
    service: Service, seed: int | None, different: int
) -> None:
    submitted: list[Job] = []
    service.engine = cast("Engine", SimpleNamespace(submit=submitted.append, close=service.engine.close))
    request = Generation(model="m", temperature=1.5, seed=seed)
    prompts = [Asked([5, 6], 9, (None, None)) for _ in range(2)]

    async def ask() -> None:
        async with answering(service, request, (cast("ModelSource", None), 1.0), prompts):
            pass

    asyncio.run(ask())

    seeds = [sampling.seed for job in submitted for sampling in job.samplings]
    assert len(set(seeds)) == max(different, 2)  # the two answers to one prompt are never the same


def test_news_for_nobody_is_dropped() -> None:
    async def make() -> Ticket:
        return Ticket(5.0)

    ticket = asyncio.run(make())
    ticket.deliver([Failure(None)])

    assert ticket._news.empty()


def test_strength_is_that_of_an_adapter(trained: RunDir) -> None:
    tuned, base = find_model(trained), find_model(trained, base=True)

    assert variant_of(Generation(model="r", adapter_strength=0.5), tuned) == (tuned, 0.5)
    assert variant_of(Generation(model="base"), base) == (base, 1.0)
    with pytest.raises(ApiError) as caught:
        variant_of(Generation(model="base", adapter_strength=0.5), base)
    assert caught.value.param == "adapter_strength"
