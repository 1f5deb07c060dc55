"""Processes that train one model together: backend/training/distributed.py, with two real processes over gloo."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.errors import RunError
from backend.run.handover import Handover
from backend.training import distributed
from backend.training.distributed import ALONE, StoppedWaitingError, World, joined
from tests.runs import child_environment


@pytest.fixture
def free_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


ROOT = Path(__file__).parents[3]
PROGRAM = """
from backend.utils.process_utils import collect_rarely
collect_rarely()
import json, os, signal, sys, torch
from backend.training.distributed import LostPeerError, World, joined
from backend.training import distributed
other = os.fork()
world = World.of(os.environ | {{"RANK": "0" if other else "1"}})
def told():
    {body}
try:
    with joined(world, os.environ):
        answer = told()
except LostPeerError as error:
    answer = str(error)
{after}
sys.stdout.write(json.dumps([world.rank, answer]) + "\\n")  # one write, so that lines of two never mix
sys.stdout.flush()
_ = other and os.waitpid(other, 0)
"""


def two(tmp_path: Path, body: str, *, after: str = "", timeout_seconds: int = 60) -> list[Any]:
    """What ``body``, which knows its ``world``, returns in each of two processes; None for one that was killed.

    The second is a fork of the first, which saves it the imports.
    """
    program = PROGRAM.format(body="\n    ".join(body.splitlines()), after=after)
    environ = child_environment(
        WORLD_SIZE="2",
        GLOO_SOCKET_IFNAME="lo",
        CUDA_VISIBLE_DEVICES="",
        OMP_NUM_THREADS="1",
        **Handover(meeting=tmp_path / "meeting").environ(),
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environ, stdout=subprocess.PIPE, cwd=ROOT
    ) as first:
        told = dict(
            map(json.loads, first.communicate(timeout=timeout_seconds)[0].splitlines())
        )  # until both are gone
    return [told.get(rank) for rank in (0, 1)]


class TestAlone:
    def test_everything_is_ones_own(self) -> None:
        gradients = [torch.tensor([1.0, 2.0])]
        assert ALONE.is_main
        assert ALONE.my_share([1, 2, 3]) == [1, 2, 3]
        assert ALONE.all_reduce([1.5, 2.0], gradients) == [1.5, 2.0]
        assert gradients[0].tolist() == [1.0, 2.0]
        assert ALONE.broadcast("this") == "this"

    def test_nothing_is_connected(self) -> None:
        with joined(ALONE, {}):
            assert not torch.distributed.is_initialized()

    @pytest.mark.parametrize(
        ("environ", "world"),
        [
            ({}, World(0, 1, 1)),
            ({"RANK": "1", "WORLD_SIZE": "3"}, World(1, 3, 3, 1)),
            ({"RANK": "5", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2"}, World(5, 6, 2, 1)),
            ({"RANK": "4", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"}, World(4, 6, 2, 0)),
        ],
    )
    def test_the_place_comes_from_the_environment(self, environ: dict[str, str], world: World) -> None:
        assert World.of(environ) == world


@pytest.mark.parametrize(
    "environ",
    [
        {"RANK": "1"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "zero", "WORLD_SIZE": "2"},
        {"WORLD_SIZE": "0"},
        {"WORLD_SIZE": ""},
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "3"},
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "0"},
    ],
)
def test_a_place_that_there_cannot_be_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(RunError, match="a place among processes that there cannot be") as caught:
        World.of(environ)
    assert caught.value.code == "bad-rank"


@pytest.mark.parametrize(
    ("world", "device", "own"),
    [
        (World(), "cuda", "cuda"),
        (World(3, 4, 2, 1), "cuda", "cuda:1"),
        (World(3, 4, 2, 1), "cpu", "cpu"),
    ],
)
def test_each_of_several_has_a_gpu_of_its_own(world: World, device: str, own: str) -> None:
    assert world.own_device(device) == own


class TestMeeting:
    """Waiting for processes that do not come ends: at once when asked, else after a while, always in words."""

    @pytest.fixture(autouse=True)
    def _no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    @pytest.mark.parametrize("where", ["file", "address", "address of another"])
    def test_a_wish_to_stop_is_heard(self, where: str, tmp_path: Path, free_port: int) -> None:
        places = {
            "file": (0, Handover(meeting=tmp_path / "meeting").environ()),
            "address": (0, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}),
            "address of another": (1, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}),
        }
        rank, environ = places[where]
        asked = iter([None, None, "sigterm"])
        with (
            pytest.raises(StoppedWaitingError) as caught,
            joined(World(rank, 2), environ, lambda: next(asked)),
        ):
            pytest.fail("nobody came")
        assert caught.value.reason == "sigterm"

    def test_patience_ends_in_words(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(distributed, "MEETING_SECONDS", 0.0)
        environ = Handover(meeting=tmp_path / "meeting").environ()
        with pytest.raises(RunError, match="process 0 of 2") as caught, joined(World(0, 2), environ):
            pytest.fail("nobody came")
        assert caught.value.code == "peers-missing"

    @pytest.mark.parametrize("environ", [{}, {"MASTER_ADDR": "a"}, {"MASTER_ADDR": "a", "MASTER_PORT": "b"}])
    def test_no_place_to_meet_is_said_at_once(self, environ: dict[str, str]) -> None:
        with pytest.raises(RunError, match="where they meet") as caught, joined(World(0, 2), environ):
            pytest.fail("nobody came")
        assert caught.value.code == "no-meeting"


@pytest.mark.parametrize("change", [1.0, 1e-45, -0.0])
def test_a_checksum_of_weights_changes_with_any_bit(change: float) -> None:
    weights = [torch.ones(3, 2), torch.zeros(4)]
    before = distributed.weights_checksum(weights)
    assert before == distributed.weights_checksum([part.clone() for part in weights])
    weights[1][2] = change
    assert distributed.weights_checksum(weights) != before


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("parts", [0, 1, 2, 7])
def test_every_part_is_computed_once(size: int, parts: int) -> None:
    shares = [World(rank, size).my_share(list(range(parts))) for rank in range(size)]
    assert sorted(part for share in shares for part in share) == list(range(parts))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [World(rank, size).is_main for rank in range(size)] == [True] + [False] * (size - 1)


SHAPES = [(2, 3), (5,), (1,), (4, 4)]


@pytest.mark.parametrize("elements", [1, 6, 2**24])
def test_buckets_hold_neighbours_in_order(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(distributed, "BUCKET_ELEMENTS", elements)
    tensors: Sequence[torch.Tensor] = [torch.zeros(shape) for shape in SHAPES]
    tensors = [*tensors, torch.zeros(2, dtype=torch.bfloat16)]
    buckets = list(distributed._buckets(tensors))
    assert [id(part) for bucket in buckets for part in bucket] == [id(part) for part in tensors]
    assert all(len({part.dtype for part in bucket}) == 1 for bucket in buckets)
    assert all(len(bucket) == 1 or sum(part.numel() for part in bucket) <= elements for bucket in buckets)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of two processes saw of one meeting; the first one saves for a while before it leaves."""
    folder = tmp_path_factory.mktemp("together")
    saved = str(folder / "saved")
    body = f"""
import time
distributed.BUCKET_ELEMENTS = 3
parts = [torch.full((2, 2), 1.0 + world.rank), torch.tensor([0.1 * (world.rank + 1)]), torch.tensor(3.0)]
loss, other = world.all_reduce([0.5 + world.rank, 1.0], parts)
names = world.gather('ab'[world.rank])
wish = 'stop' if world.is_main else None
told = [world.broadcast({{'step': world.rank}}), world.broadcast(wish), world.broadcast(None)]
world.require_same(step=4, model='a')
try:
    world.require_same(step=4, base_model='ab'[world.rank])
except Exception as error:
    refused = [type(error).__name__, error.code, error.message]
time.sleep(0.5 * world.is_main)
open({saved!r}, 'w').close() if world.is_main else None
added = [loss, [part.tolist() for part in parts]]
return {{'refused': refused, 'sum': added, 'told': told, 'names': names, 'other': other}}"""
    return two(folder, body, after=f"answer['saved'] = os.path.exists({saved!r})")


@pytest.mark.slow
def test_two_add_up_to_the_same_bits(together: list[Any]) -> None:
    first, second = (seen["sum"] for seen in together)
    assert first == second
    loss, (matrix, vector, number) = first
    assert (loss, matrix, number) == (2.0, [[3.0, 3.0], [3.0, 3.0]], 6.0)
    assert vector == pytest.approx([0.3])
    assert [seen["other"] for seen in together] == [2.0, 2.0]


@pytest.mark.slow
def test_each_hears_all_by_rank(together: list[Any]) -> None:
    assert [seen["names"] for seen in together] == [["a", "b"]] * 2
    assert ALONE.gather(3) == [3]


@pytest.mark.slow
def test_the_first_one_decides(together: list[Any]) -> None:
    assert [seen["told"] for seen in together] == [[{"step": 0}, "stop", None]] * 2


@pytest.mark.slow
def test_what_differs_is_refused_by_both(together: list[Any]) -> None:
    said = "Process 1 of 2 has another base model than process 0: b, not a."
    assert [seen["refused"] for seen in together] == [["RunError", "processes-disagree", said]] * 2


@pytest.mark.slow
def test_they_leave_together(together: list[Any]) -> None:
    """Whoever is done waits for the first one, which may still be saving."""
    assert [seen["saved"] for seen in together] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_f01_one_that_dies_is_noticed_at_once(tmp_path: Path, victim: int) -> None:
    body = f"""
world.broadcast(None)
os.kill(os.getpid(), {signal.SIGKILL:d}) if world.rank == {victim} else None
return [world.all_reduce([0.0], [torch.zeros(3)]) for _ in range(2)]"""
    answers = two(tmp_path, body)
    assert answers[victim] is None
    assert answers[1 - victim] == "Another process of this run is gone."


def test_more_processes_than_gpus_is_refused() -> None:
    with pytest.raises(RunError, match="2 GPUs") as caught:
        distributed._set_gpu(2, count=lambda: 2)
    assert caught.value.code == "too-few-gpus"
    assert "nproc_per_node" in str(caught.value)


def test_each_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    distributed._set_gpu(1, count=lambda: 2)
    assert taken == [1]
