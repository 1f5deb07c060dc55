"""The guards of conftest.py, which every other test relies on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest

from tests.conftest import alive_since, living

ELSEWHERE = ("192.0.2.1", 9)  # TEST-NET-1 (RFC 5737): nobody's


def test_the_hub_is_offline() -> None:
    from huggingface_hub import constants

    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("reach", ["connect", "connect_ex"])
def test_another_machine_cannot_be_reached(reach: str) -> None:
    with socket.socket() as wire, pytest.raises(pytest.fail.Exception, match=r"192\.0\.2\.1"):
        getattr(wire, reach)(ELSEWHERE)


def test_loopback_can_be_reached() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as wire,
    ):
        assert wire.getpeername() == server.getsockname()


def test_a_thread_that_is_left_behind_is_seen() -> None:
    before, done = living(), threading.Event()
    thread = threading.Thread(target=done.wait, name="stray")
    thread.start()
    seen = alive_since(before, patience_seconds=0.01)
    done.set()
    thread.join()
    assert (seen, alive_since(before)) == (["stray"], [])


def test_a_child_that_is_left_behind_is_seen() -> None:
    before = living()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        seen = alive_since(before)
        child.communicate(b"\n")
    assert [str(child.pid) in line for line in seen] == [True]
    assert alive_since(before) == []
