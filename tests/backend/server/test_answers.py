"""What becomes of errors and strengths on the way: backend/server/answers.py. The way itself is tried over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from backend.errors import InferenceError, ModelError, TunesmithError
from backend.model_source import find_model
from backend.run_dir import RunDir
from backend.server.answers import Service, Ticket, variant_of
from backend.server.catalogue import Catalogue
from backend.server.engine import Engine, Limits
from backend.server.errors import ApiError
from backend.server.jobs import Failure
from backend.server.metrics import Metrics
from backend.server.schemas import Generation


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
        asyncio.run(service.aside(work))

    assert caught.value.status == 400
    assert asyncio.run(service.aside(lambda: 5)) == 5


def test_a_fault_is_told_without_its_cause() -> None:
    async def hear() -> None:
        ticket = Ticket()
        ticket.deliver([Failure(None)])
        await ticket.next()

    with pytest.raises(ApiError) as caught:
        asyncio.run(hear())
    assert caught.value.status == 500


def test_news_for_nobody_is_dropped() -> None:
    async def make() -> Ticket:
        return Ticket()

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
