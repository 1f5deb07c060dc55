"""Whatever fails is given to those it concerns: an error, a lack of memory, a panic in the code of a library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def caught(tell: Callable[[BaseException], None]) -> Iterator[None]:
    """Give whatever fails in here to ``tell`` and go on after it.

    A panic of Rust code (tokenizers, llguidance) reaches Python as a BaseException, so those are caught as well; one
    that asks the process to end is told and raised on.
    """
    try:
        yield
    except BaseException as error:
        tell(error)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
