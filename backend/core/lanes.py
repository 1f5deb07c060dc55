"""Lanes: independent pieces of work side by side, results in order, bits independent of how many lanes there are.

On CPU a step is split into micro-batches that run on one thread each instead of one product over all cores. No
thread ever waits at a barrier inside a product, so a core taken away by another program costs its share of the
time and no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def _begin(threads: int, gpu: int | None) -> None:
    """Give the calling thread its number of threads and the GPU of the thread that made the lanes.

    CUDA's current device belongs to a thread and is not inherited: without this every lane computes on GPU 0.
    """
    torch.set_num_threads(threads)
    if gpu is not None:
        torch.cuda.set_device(gpu)


class Lanes:
    """A pool of ``count`` threads, each computing on ``threads`` threads of its own. Close it when done.

    They compute on the GPU of the thread that makes them.
    """

    def __init__(self, count: int, threads: int = 1) -> None:
        self.count = count
        in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        gpu = torch.cuda.current_device() if in_use else None
        self._pool = ThreadPoolExecutor(
            count, thread_name_prefix="lane", initializer=_begin, initargs=(threads, gpu)
        )

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results of ``work`` in the order of ``items``; at most one item more than lanes is in flight.

        An exception of ``work`` is raised here once the pieces in flight have ended.
        """
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(work, item))
                if len(waiting) > self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            for future in waiting:
                if not future.cancelled():
                    future.exception()

    def close(self) -> None:
        """End the threads after the work in flight."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Lanes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread meanwhile.

    For work of a few tokens: more threads save it next to nothing, and where other programs keep the cores busy they
    wait for one another after every product, which makes seconds out of milliseconds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
