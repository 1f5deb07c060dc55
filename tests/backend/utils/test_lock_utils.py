"""A lock that lives as long as its holders: backend/utils/lock_utils.py, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from backend.utils.lock_utils import (
    LockedError,
    hold_folder,
    hold_lock,
    is_folder_held,
    is_locked,
    share_folder,
)
from tests.eventually import eventually

SLEEPER = "import time; time.sleep(60)"


def test_holding_and_letting_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    with hold_lock(path):
        assert is_locked(path)
    assert not is_locked(path)


def test_a_second_holder_is_turned_away(tmp_path: Path) -> None:
    with (
        hold_lock(tmp_path / "lock"),
        pytest.raises(LockedError, match="held"),
        hold_lock(tmp_path / "lock", wait_seconds=0.05),
    ):
        pytest.fail("two holders")


def test_a_patient_holder_gets_it_when_the_first_lets_go(tmp_path: Path) -> None:
    got = threading.Event()

    def wait_for_it() -> None:
        with hold_lock(tmp_path / "lock", wait_seconds=20):
            got.set()

    waiter = threading.Thread(target=wait_for_it)
    with hold_lock(tmp_path / "lock"):
        waiter.start()
        assert not got.wait(0.1)
    waiter.join()
    assert got.is_set()


def test_sixteen_threads_one_holder(tmp_path: Path) -> None:
    barrier = threading.Barrier(16)
    done = threading.Event()

    def try_it(_: int) -> bool:
        barrier.wait()
        try:
            with hold_lock(tmp_path / "lock", wait_seconds=0):
                return done.wait(20)
        except LockedError:
            return False

    with ThreadPoolExecutor(16) as pool:
        tries = [pool.submit(try_it, number) for number in range(16)]
        eventually(lambda: sum(one.done() for one in tries) == 15)
        done.set()
        assert sum(one.result() for one in tries) == 1


def test_looking_does_not_turn_a_holder_away(tmp_path: Path) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            is_locked(tmp_path / "lock")

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(30):
            with hold_lock(tmp_path / "lock", wait_seconds=5):
                assert is_locked(tmp_path / "lock")
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


def test_a_child_that_inherited_it_holds_it_on(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold_lock(path) as descriptor:
        child = subprocess.Popen([sys.executable, "-c", SLEEPER], pass_fds=(descriptor,))
    assert is_locked(path)
    child.kill()
    child.wait()
    assert not is_locked(path)


def test_f11_a_zombie_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold_lock(path) as descriptor:
        child = subprocess.Popen([sys.executable, "-c", SLEEPER], pass_fds=(descriptor,))
    child.kill()
    eventually(lambda: not is_locked(path))
    assert child.wait() == -9


def test_an_inherited_descriptor_is_adopted(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold_lock(path) as descriptor:
        copy = os.dup(descriptor)
        with hold_lock(path, inherited=copy, wait_seconds=0) as adopted:
            assert adopted == copy
        assert is_locked(path)


@pytest.mark.parametrize("number", [-1, 999_999])
def test_a_descriptor_that_is_not_there_is_ignored(tmp_path: Path, number: int) -> None:
    with hold_lock(tmp_path / "lock", inherited=number) as descriptor:
        assert descriptor != number


def test_a_descriptor_of_another_file_is_left_alone(tmp_path: Path) -> None:
    with (tmp_path / "other").open("w") as other:
        with hold_lock(tmp_path / "lock", inherited=other.fileno()) as descriptor:
            assert descriptor != other.fileno()
        other.write("still open")


def test_a_missing_folder_is_an_error_to_hold_and_free_to_look_at(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "gone" / "lock")
    with pytest.raises(FileNotFoundError), hold_lock(tmp_path / "gone" / "lock"):
        pytest.fail("held nothing")


class TestFolders:
    def test_any_number_share_and_nothing_is_written(self, tmp_path: Path) -> None:
        assert not is_folder_held(tmp_path)
        with share_folder(tmp_path), share_folder(tmp_path):
            assert is_folder_held(tmp_path)
            assert list(tmp_path.iterdir()) == []
        assert not is_folder_held(tmp_path)

    def test_nobody_has_it_alone_meanwhile(self, tmp_path: Path) -> None:
        with (
            share_folder(tmp_path),
            pytest.raises(LockedError, match="held"),
            hold_folder(tmp_path, wait_seconds=0.05),
        ):
            pytest.fail("alone beside another")

    def test_nobody_shares_what_one_has_alone(self, tmp_path: Path) -> None:
        with (
            hold_folder(tmp_path),
            pytest.raises(LockedError, match="held"),
            share_folder(tmp_path, wait_seconds=0.05),
        ):
            pytest.fail("shared with a loner")

    def test_a_folder_that_its_holder_took_away_is_gone(self, tmp_path: Path) -> None:
        path, refused = tmp_path / "folder", threading.Event()
        path.mkdir()

        def share() -> None:
            try:
                with share_folder(path, wait_seconds=20):
                    pass
            except FileNotFoundError:
                refused.set()

        with hold_folder(path):
            late = threading.Thread(target=share)
            late.start()
            eventually(lambda: _open_on(path) == 2)
            path.rmdir()
        late.join()
        assert refused.is_set()

    @pytest.mark.parametrize("lock", [share_folder, hold_folder])
    def test_a_missing_folder_is_held_by_nobody_and_not_made(self, tmp_path: Path, lock: Any) -> None:
        path = tmp_path / "gone"
        assert not is_folder_held(path)
        with pytest.raises(FileNotFoundError), lock(path):
            pytest.fail("held nothing")
        assert not path.exists()


def _open_on(path: Path) -> int:
    """How many descriptors of this process are open on a file."""
    return len([link for link in Path("/proc/self/fd").iterdir() if link.resolve() == path])
