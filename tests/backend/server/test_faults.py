"""Whatever fails is told and gone past: backend/server/faults.py."""

from __future__ import annotations

import pytest

from backend.errors import InferenceError
from backend.server.faults import caught


class Panic(BaseException):
    """As Rust code raises it: no Exception."""


@pytest.mark.parametrize(
    "fault", [ValueError("x"), MemoryError(), Panic(), InferenceError("x", remedy="y", code="z")]
)
def test_a_fault_is_told_and_what_follows_goes_on(fault: BaseException) -> None:
    told: list[BaseException] = []
    with caught(told.append):
        raise fault
    assert told == [fault]


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(3)])
def test_who_asks_the_process_to_end_is_told_and_obeyed(end: BaseException) -> None:
    told: list[BaseException] = []
    with pytest.raises(type(end)), caught(told.append):
        raise end
    assert told == [end]


def test_nothing_is_told_where_nothing_fails() -> None:
    told: list[BaseException] = []
    with caught(told.append):
        pass
    assert told == []
