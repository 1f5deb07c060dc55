"""One way to catch whatever fails: an error, a lack of memory, a panic in the code of a library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def caught(report: Callable[[BaseException], None]) -> Iterator[None]:
    """Give whatever fails in the block to ``report``, and go on after the block.

    A panic of Rust code (tokenizers, llguidance) reaches Python as a BaseException, so those are caught as well; one
    that asks the process to end is reported and raised on.
    """
    try:
        yield
    except BaseException as error:
        report(error)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
