"""Events between threads, and seeds: backend/server/generation.py. Whole requests are tested over HTTP."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast
from unittest.mock import create_autospec

import pytest

from backend.errors import InferenceError
from backend.inference.model_source import ModelSource
from backend.server.engine import Engine
from backend.server.errors import ApiError
from backend.server.generation import EncodedPrompt, EventQueue, generate
from backend.server.jobs import Failure, Job
from backend.server.schemas import GenerationRequest
from backend.server.service import Service


def test_a_fault_is_delivered_without_its_cause() -> None:
    async def receive() -> None:
        events = EventQueue(5.0)
        events.deliver([Failure(None)])
        await events.next()

    with pytest.raises(ApiError) as caught:
        asyncio.run(receive())
    assert caught.value.status == 500


def test_waiting_for_events_ends_in_time() -> None:
    async def receive() -> None:
        await EventQueue(0.0).next()

    with pytest.raises(ApiError) as caught:
        asyncio.run(receive())
    assert (caught.value.status, caught.value.code) == (504, "time_limit")


def test_events_for_a_loop_that_ended_are_dropped() -> None:
    async def make() -> EventQueue:
        return EventQueue(5.0)

    events = asyncio.run(make())
    events.deliver([Failure(None)])

    assert events._events.empty()


@pytest.mark.parametrize(("seed", "different"), [(None, 4), (-1, 4), (7, 1)])
def test_equal_prompts_of_one_request_differ_unless_a_seed_was_given(
    service: Service, seed: int | None, different: int
) -> None:
    submitted: list[Job] = []
    service.engine = cast("Engine", SimpleNamespace(submit=submitted.append, close=service.engine.close))
    request = GenerationRequest(model="m", temperature=1.5, seed=seed)
    prompts = [EncodedPrompt([5, 6], 9, (None, None)) for _ in range(2)]

    async def ask() -> None:
        async with generate(service, request, (cast("ModelSource", None), 1.0), prompts):
            pass

    asyncio.run(ask())

    seeds = [sampling.seed for job in submitted for sampling in job.samplings]
    assert len(set(seeds)) == max(different, 2)  # the two answers to one prompt are never the same
    assert all(job.cancelled for job in submitted)


def test_a_request_is_queued_whole_or_not_at_all(service: Service) -> None:
    full = InferenceError("Full.", remedy="", code="queue-full")
    submit = create_autospec(service.engine.submit, side_effect=[None, full])
    service.engine = cast("Engine", SimpleNamespace(submit=submit, close=service.engine.close))
    prompts = [EncodedPrompt([5, 6], 9) for _ in range(3)]

    async def ask() -> None:
        async with generate(service, GenerationRequest(model="m"), (cast("ModelSource", None), 1.0), prompts):
            pass

    with pytest.raises(ApiError) as caught:
        asyncio.run(ask())

    assert caught.value.status == 429
    assert [call.args[0].cancelled for call in submit.call_args_list] == [True, True]
