"""Lanes: a thread pool that runs independent pieces of work in parallel and returns the results in order.

On CPU, micro-batches run in parallel on one thread each, instead of one after the other on all threads. No thread
waits at a barrier inside a matrix product, so a core that another program takes away costs its share of the time and
no more. The result has the same bits for any number of lanes.
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


def _start_thread(threads: int, gpu: int | None) -> None:
    """Set the calling thread's number of torch threads and its GPU.

    CUDA's current device belongs to a thread and is not inherited: without this every lane would use GPU 0.
    """
    torch.set_num_threads(threads)
    if gpu is not None:
        torch.cuda.set_device(gpu)


class Lanes:
    """A pool of ``count`` threads, each with ``threads`` torch threads of its own. Close it when done.

    They use the current GPU of the thread that creates the pool.
    """

    def __init__(self, count: int, threads: int = 1) -> None:
        self.count = count
        in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        gpu = torch.cuda.current_device() if in_use else None
        self._pool = ThreadPoolExecutor(
            count, thread_name_prefix="lane", initializer=_start_thread, initargs=(threads, gpu)
        )

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results of ``work`` in the order of ``items``, with at most one more item in flight than lanes.

        The limit bounds memory: results, such as gradients, are as large as the model. An exception of ``work`` is
        raised here after the items in flight have ended.
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

    def submit(self, work: Callable[[Item], Result], item: Item) -> Future[Result]:
        """Begin ``work`` on ``item`` in the next lane that is free; return the future of its result."""
        return self._pool.submit(work, item)

    def close(self) -> None:
        """Stop the threads after the work in flight."""
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
