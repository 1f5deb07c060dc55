from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from backend.inference.side_by_side import Waiting, side_by_side

SIZES = [5, 5, 9, 1]


def _take(waiting: Waiting, most: int, room: int, *, alone: bool = False) -> list[int]:
    return waiting.take(most, room, SIZES.__getitem__, alone=alone)


def test_numbers_are_taken_from_the_front_within_both_limits() -> None:
    waiting = Waiting(range(4))
    assert _take(waiting, 0, 100) == []
    assert _take(waiting, 3, 10) == [0, 1]
    assert _take(waiting, 3, 8) == []
    assert _take(waiting, 3, 8, alone=True) == [2]
    assert _take(waiting, 3, 8) == [3]
    assert _take(waiting, 3, 8, alone=True) == []


def test_results_come_as_they_are_made_and_all_of_them() -> None:
    later = threading.Event()

    def work(group: int) -> Iterator[int]:
        yield group
        assert group or later.wait(10)
        yield group + 100

    found = []
    for each in side_by_side(work, [0, 1, 2], lanes=2):
        found.append(each)
        later.set()
    assert sorted(found) == [0, 1, 2, 100, 101, 102]


def test_nothing_to_do() -> None:
    assert list(side_by_side(lambda _: iter([1]), [], lanes=2)) == []


def test_an_error_is_raised_and_ends_the_others() -> None:
    begun = threading.Event()

    def work(group: int) -> Iterator[int]:
        begun.set()
        for _ in range(group):
            raise KeyError
        while True:
            yield 1

    with pytest.raises(KeyError):
        list(side_by_side(work, [0, 1], lanes=2))
    assert begun.is_set()


def test_who_stops_taking_ends_them_all() -> None:
    def work(_: int) -> Iterator[int]:
        while True:
            yield 1

    found = side_by_side(work, [0, 1, 2], lanes=2)
    assert next(found) == 1
    found.close()
