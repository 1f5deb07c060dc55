"""Warnings of libraries that tell a person nothing, kept unsaid."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_FILTERS = threading.RLock()
"""Python's filters are those of the whole process, and who puts back what was before puts it back for everybody: of
two threads at once, the second would leave the filters of the first behind."""


@contextmanager
def unwarned(*unwanted: tuple[type[Warning], str]) -> Iterator[None]:
    """Ignore warnings meanwhile: all of them, or those of a category whose beginning fits the pattern beside it.

    One thread at a time, and the filters are then as they were.
    """
    with _FILTERS, warnings.catch_warnings():
        for category, pattern in unwanted or ((Warning, ""),):
            warnings.filterwarnings("ignore", pattern, category)
        yield
