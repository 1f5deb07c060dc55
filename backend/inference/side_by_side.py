"""Many prompts answered at once: lanes that take prompts as their rows get free, and hand over each answer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue
from typing import TypeVar

from backend.core.lanes import Lanes

Group = TypeVar("Group")
Result = TypeVar("Result")


class Waiting:
    """The numbers of prompts that no lane has taken yet; safe from any thread."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._lock = threading.Lock()
        self._numbers = deque(numbers)

    def take(self, most: int, room: int, size: Callable[[int], int], *, alone: bool) -> list[int]:
        """Take ``most`` numbers at most, from the front, as long as their sizes together fit into ``room``.

        The first is taken whatever its size is if it is ``alone``, with nothing beside it.
        """
        taken: list[int] = []
        with self._lock:
            while self._numbers and len(taken) < most:
                room -= size(self._numbers[0])
                if room < 0 and not (alone and not taken):
                    break
                taken.append(self._numbers.popleft())
        return taken


def side_by_side(
    work: Callable[[Group], Iterator[Result]], groups: Sequence[Group], lanes: int
) -> Iterator[Result]:
    """Yield what ``work`` yields for all ``groups``, as it comes, with so many of them at work at once.

    What it raises is raised here; the other lanes then end with their next result.
    """
    found: SimpleQueue[tuple[Result, ...] | BaseException] = SimpleQueue()
    over = threading.Event()

    def run(group: Group) -> None:
        try:
            for each in work(group):
                if over.is_set():
                    return
                found.put((each,))
            found.put(())
        except BaseException as error:  # noqa: BLE001 - raised where the results are taken
            found.put(error)

    with Lanes(lanes) as pool:
        left = [pool.submit(run, group) for group in groups]
        try:
            while left:
                each = found.get()
                if isinstance(each, BaseException):
                    raise each
                if each:
                    yield each[0]
                else:
                    left.pop()
        finally:
            over.set()
