"""Warnings that tell a person nothing: backend/utils/warning_utils.py."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from backend.utils.warning_utils import unwarned


def test_all_of_them_and_none_afterwards() -> None:
    with unwarned():
        warnings.warn("anything", stacklevel=1)
    with pytest.warns(UserWarning, match="anything"):
        warnings.warn("anything", stacklevel=1)


def test_only_those_that_are_meant() -> None:
    with unwarned((FutureWarning, ""), (RuntimeWarning, "the (one|other)")):
        warnings.warn("soon", FutureWarning, stacklevel=1)
        warnings.warn("the other one", RuntimeWarning, stacklevel=1)
        with pytest.warns(RuntimeWarning, match="not this"):
            warnings.warn("not this", RuntimeWarning, stacklevel=1)


def test_the_filters_are_as_they_were_after_an_error() -> None:
    before = list(warnings.filters)
    with pytest.raises(KeyError), unwarned():
        raise KeyError
    assert warnings.filters == before


def test_two_threads_at_once_leave_the_filters_as_they_were() -> None:
    before, both = list(warnings.filters), threading.Barrier(2)
    left = threading.Event()

    def first() -> None:
        with unwarned(), suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # nobody else comes in meanwhile
        left.set()

    def second() -> None:
        with unwarned():
            with suppress(threading.BrokenBarrierError):
                both.wait(0.2)
            left.wait(5)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result()
    assert warnings.filters == before
