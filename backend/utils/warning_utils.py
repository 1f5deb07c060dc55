"""Suppress warnings of libraries that a user can do nothing about."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_FILTERS = threading.RLock()
"""Warning filters belong to the whole process. Without this lock, two threads that save and restore them at once
could leave one thread's filters in place for good."""


@contextmanager
def unwarned(*unwanted: tuple[type[Warning], str]) -> Iterator[None]:
    """Ignore warnings inside the block: all, or those of a category whose text begins with the given pattern.

    One thread at a time; the filters are restored afterwards.
    """
    with _FILTERS, warnings.catch_warnings():
        for category, pattern in unwanted or ((Warning, ""),):
            warnings.filterwarnings("ignore", pattern, category)
        yield
