"""Bytes set aside for a full disk: backend/utils/reserve_utils.py."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.utils.reserve_utils import PART_BYTES, PARTS, is_disk_full, release, set_aside, with_reserve
from tests.runs import tree


def refusing(times: int, number: int = errno.ENOSPC) -> Callable[[], None]:
    """A write that is refused so many times."""
    left = [OSError(number, "refused")] * times

    def write() -> None:
        if left:
            raise left.pop()

    return write


def sizes(reserve: Path) -> list[int]:
    return [part.stat().st_size for part in reserve.iterdir()]


def test_what_is_set_aside_is_there_and_set_aside_once(tmp_path: Path) -> None:
    reserve = tmp_path / "reserve"
    set_aside(reserve)
    before = tree(reserve)
    assert sizes(reserve) == [PART_BYTES] * PARTS
    set_aside(reserve)
    assert tree(reserve) == before


def test_what_was_given_back_is_set_aside_again(tmp_path: Path) -> None:
    reserve = tmp_path / "reserve"
    set_aside(reserve)
    with_reserve(reserve, refusing(1))
    set_aside(reserve)
    assert sizes(reserve) == [PART_BYTES] * PARTS


def test_a_disk_that_refuses_has_none_to_spare(tmp_path: Path) -> None:
    set_aside(tmp_path / "missing" / "reserve")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_gets_a_file_and_its_bytes_back_for_each_try(tmp_path: Path) -> None:
    reserve = tmp_path / "reserve"
    set_aside(reserve)
    with_reserve(reserve, refusing(2))
    assert len(sizes(reserve)) == PARTS - 2
    with_reserve(reserve, refusing(0))
    assert len(sizes(reserve)) == PARTS - 2
    release(reserve)
    assert not reserve.exists()
    release(reserve)


def test_when_nothing_is_left_the_error_comes_through(tmp_path: Path) -> None:
    reserve = tmp_path / "reserve"
    set_aside(reserve)
    with pytest.raises(OSError, match="refused") as caught:
        with_reserve(reserve, refusing(100))
    assert is_disk_full(caught.value)


def test_another_error_costs_nothing(tmp_path: Path) -> None:
    reserve = tmp_path / "reserve"
    set_aside(reserve)
    with pytest.raises(OSError, match="refused"):
        with_reserve(reserve, refusing(1, errno.EACCES))
    assert len(sizes(reserve)) == PARTS
