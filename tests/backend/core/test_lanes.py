"""Lanes keep order, pass errors on, hold back the flood and leave no thread behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from transformers import PreTrainedModel

from backend.core.lanes import Lanes, one_thread
from backend.inference.decode_proof import prove_decoding
from backend.training.forward import choose_forward
from backend.training.reach import reach_of_text
from tests.tiny import tiny_model

WAIT = 10.0
"""Seconds after which a meeting of threads has failed; a good one takes none."""


def _lane_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lane")]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("items", [0, 1, 2, 7, 40])
def test_results_come_in_the_order_of_the_items(count: int, items: int) -> None:
    with Lanes(count) as lanes:
        assert list(lanes.map(lambda item: item * item, range(items))) == [n * n for n in range(items)]


def test_a_slow_first_item_is_waited_for() -> None:
    second_done = threading.Event()
    work = {0: lambda: second_done.wait(WAIT), 1: second_done.set}

    with Lanes(2) as lanes:
        assert list(lanes.map(lambda item: work[item](), [0, 1])) == [True, None]


def test_lanes_really_run_side_by_side() -> None:
    meeting = threading.Barrier(3)

    with Lanes(3) as lanes:
        places = list(lanes.map(lambda _: meeting.wait(WAIT), range(3)))

    assert sorted(places) == [0, 1, 2]


def test_work_is_begun_without_waiting_for_it() -> None:
    meeting = threading.Barrier(3)

    with Lanes(2) as lanes:
        futures = [lanes.submit(lambda _: meeting.wait(WAIT), item) for item in range(2)]
        meeting.wait(WAIT)
        assert len({future.result() for future in futures}) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_every_lane_computes_on_threads_of_its_own(threads: int) -> None:
    meeting = threading.Barrier(2)

    def work(_: int) -> int:
        meeting.wait(WAIT)
        return torch.get_num_threads()

    with Lanes(2, threads) as lanes:
        assert list(lanes.map(work, range(2))) == [threads, threads]


@pytest.mark.parametrize(("initialized", "expected"), [(True, [3, 3]), (False, [])])
def test_every_lane_computes_on_the_gpu_of_the_thread_that_made_it(
    monkeypatch: pytest.MonkeyPatch, initialized: bool, expected: list[int]
) -> None:
    taken: list[int] = []
    meeting = threading.Barrier(2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialized)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)

    with Lanes(2) as lanes:
        list(lanes.map(lambda _: meeting.wait(WAIT), range(2)))

    assert taken == expected


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_more_than_one_item_beyond_the_lanes_is_taken(count: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(20):
            taken.append(item)
            yield item

    with Lanes(count) as lanes:
        results = lanes.map(lambda item: item, items())
        ahead = [len(taken) - given for given, _ in enumerate(results)]

    assert max(ahead) == count + 1


def test_an_error_of_the_work_is_raised_in_its_turn() -> None:
    with Lanes(2) as lanes:
        results = lanes.map(lambda item: 1 / (3 - item), range(10))

        assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1.0]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_an_error_is_raised_only_when_nothing_is_in_flight() -> None:
    """The second item is still at work when the first one fails; afterwards it is not."""
    started, finished = threading.Event(), []

    def work(item: int) -> None:
        if item == 0:
            assert started.wait(WAIT)
            raise ValueError("first")
        started.set()
        torch.ones(300, 300) @ torch.ones(300, 300)
        finished.append(item)

    with Lanes(2) as lanes:
        with pytest.raises(ValueError, match="first"):
            list(lanes.map(work, [0, 1]))

        assert finished == [1]


def test_an_error_of_the_items_is_raised_too() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("no more rows")

    with Lanes(2) as lanes, pytest.raises(LookupError, match="no more rows"):
        list(lanes.map(lambda item: item, items()))


def test_after_an_error_the_lanes_work_on() -> None:
    with Lanes(2) as lanes:
        with pytest.raises(ZeroDivisionError):
            list(lanes.map(lambda item: 1 / item, [0, 1, 2]))

        assert list(lanes.map(lambda item: item + 1, [1, 2])) == [2, 3]


def test_work_that_nobody_waits_for_is_not_begun() -> None:
    begun: list[int] = []
    with Lanes(1) as lanes:
        results = lanes.map(begun.append, range(10))
        next(results)
        results.close()
    assert len(begun) <= 3


@pytest.mark.parametrize("items", [0, 5])
def test_closing_leaves_no_thread(items: int) -> None:
    lanes = Lanes(3)
    list(lanes.map(lambda item: item, range(items)))

    lanes.close()

    assert _lane_threads() == []


def test_leaving_by_an_error_leaves_no_thread_either() -> None:
    with pytest.raises(KeyError), Lanes(2) as lanes:
        list(lanes.map(lambda item: {}[item], range(5)))

    assert _lane_threads() == []


def test_closed_lanes_take_no_work() -> None:
    lanes = Lanes(1)
    lanes.close()

    with pytest.raises(RuntimeError):
        list(lanes.map(lambda item: item, [1]))


@pytest.mark.parametrize("count", [0, -1])
def test_there_is_no_pool_without_a_lane(count: int) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        Lanes(count)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_one_thread_meanwhile_and_as_many_as_before_afterwards() -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def _failing() -> None:
    with one_thread():
        raise KeyError


@pytest.mark.usefixtures("two_threads")
def test_an_error_gives_the_threads_back() -> None:
    with pytest.raises(KeyError):
        _failing()
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("prove", [choose_forward, reach_of_text, prove_decoding])
def test_what_is_proved_before_work_begins_computes_on_one_thread(
    prove: Callable[[PreTrainedModel], object],
) -> None:
    model = tiny_model()
    threads = set[int]()
    model.get_input_embeddings().register_forward_hook(lambda *_: threads.add(torch.get_num_threads()))
    prove(model)
    assert threads == {1}
