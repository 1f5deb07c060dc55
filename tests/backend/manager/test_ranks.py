"""Processes that train together, watched as one: backend/manager/ranks.py, with real processes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
from torch.distributed.run import get_args_parser

from backend.errors import RunError
from backend.manager import ranks
from backend.manager.ranks import Ranks, launch, nproc_per_node, torchrun_command
from backend.run.folder import RunDir
from backend.run.handover import Handover
from backend.run.settings import run_config
from backend.training.agreement import require_process_count
from backend.training.distributed import World
from backend.utils.lock_utils import is_locked
from tests.eventually import eventually

DATA = "data:\n  train: rows.jsonl\n"
TELL = "import json, os; print(json.dumps(dict(os.environ)), flush=True)"
WAIT = "import time; time.sleep(60)"
BY_RANK = "import os, sys, time; what = sys.argv[1 + int(os.environ['RANK'])]; "
ACT = (
    BY_RANK
    + "time.sleep(60) if what == 'wait' else os.kill(os.getpid(), 9) if what == 'die' else sys.exit(int(what))"
)


@contextmanager
def started(run: RunDir, program: str, *words: str, count: int = 2) -> Iterator[Ranks]:
    command = (sys.executable, "-c", program, *words)
    with run.lock() as lock, closing(begin(run, lock, command, count)) as found:
        yield found


def begin(run: RunDir, lock: int, command: Sequence[str], count: int) -> Ranks:
    return launch(command, os.environ, Handover(1, lock, "a mark"), run=run, count=count)


def ended(found: Ranks) -> bool:
    return found.wait(0.01)


def test_each_gets_what_torchrun_would_give_it(run: RunDir) -> None:
    with started(run, TELL, count=3) as found:
        eventually(lambda: ended(found))
        told = [json.loads(line) for line in run.train_log.read_text().splitlines()]
    assert sorted(one["RANK"] for one in told) == ["0", "1", "2"]
    assert [one["RANK"] for one in told] == [one["LOCAL_RANK"] for one in told]
    assert {one["WORLD_SIZE"] + one["LOCAL_WORLD_SIZE"] for one in told} == {"33"}
    handed = {Handover.of(one) for one in told}
    assert [(one.attempt, one.token) for one in handed] == [(1, "a mark")]
    assert [one.meeting is not None for one in handed] == [True]
    assert {one["GLOO_SOCKET_IFNAME"] for one in told} <= {"lo", "lo0"}
    assert found.returncode == 0


def test_one_alone_is_told_of_nobody(run: RunDir) -> None:
    with started(run, TELL, count=1) as found:
        eventually(lambda: ended(found))
    told = json.loads(run.train_log.read_text())
    assert {"RANK", "WORLD_SIZE"} & told.keys() == set()
    assert Handover.of(told).meeting is None


def test_the_place_of_whoever_starts_a_run_is_not_handed_on(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in Handover(9, 99, "another", run.path / "meeting").environ().items():
        monkeypatch.setenv(name, value)
    with started(run, TELL, count=1) as found:
        eventually(lambda: ended(found))
    told = json.loads(run.train_log.read_text())
    assert {"RANK", "WORLD_SIZE"} & told.keys() == set()
    handed = Handover.of(told)
    assert (handed.attempt, handed.token, handed.meeting) == (1, "a mark", None)


def test_each_keeps_the_run_alive(run: RunDir) -> None:
    with started(run, WAIT) as found:
        pids = [one.pid for one in found._processes]
    assert not is_locked(run.lock_file)
    assert found.pid == pids[0]
    assert len(set(pids)) == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("0", "0"), 0),
        (("3", "0"), 3),
        (("0", "7"), 7),
        (("die", "7"), -signal.SIGKILL),
        (("7", "die"), -signal.SIGKILL),
    ],
)
def test_the_most_telling_end_counts(run: RunDir, words: tuple[str, str], code: int) -> None:
    with started(run, ACT, *words) as found:
        eventually(lambda: ended(found))
        assert found.returncode == code


@pytest.mark.parametrize(
    ("words", "code"), [(("wait", "die"), -9), (("die", "wait"), -9), (("wait", "7"), 7)]
)
def test_one_that_fails_takes_the_others_with_it(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, words: tuple[str, str], code: int
) -> None:
    monkeypatch.setattr(ranks, "PEER_SECONDS", 0.05)
    with started(run, ACT, *words) as found:
        eventually(lambda: ended(found))
        assert found.returncode == code


def test_one_that_is_done_leaves_the_others_in_peace(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "PEER_SECONDS", 0.0)
    with started(run, ACT, "wait", "0") as found:
        eventually(lambda: found._processes[1].poll() == 0)
        assert [found.wait(0.05), found.wait(0.05)] == [False, False]


def test_closing_ends_all_and_leaves_no_file(run: RunDir) -> None:
    with started(run, WAIT) as found:
        meeting = found._meeting
        assert meeting is not None
        meeting.touch()
        processes = [psutil.Process(one.pid) for one in found._processes]
    assert not meeting.exists()
    assert [process.is_running() for process in processes] == [False, False]


def test_what_cannot_be_started_leaves_nobody(run: RunDir) -> None:
    with run.lock() as lock, pytest.raises(FileNotFoundError):
        begin(run, lock, (str(run.path / "none"),), 2)


def test_a_link_in_place_of_the_log_is_not_followed(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    run.train_log.symlink_to(tmp_path / "precious")
    with run.lock() as lock, pytest.raises(OSError, match="symbolic"):
        begin(run, lock, (sys.executable, "-c", TELL), 1)
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ("training:\n  nproc_per_node: 2\n", 2),
        ("training: {nproc_per_node: 2}\n", 2),
        ("training:\n  'nproc_per_node': 2\n", 2),
        ("training:\n    warmup_steps: 0\n\n    nproc_per_node: 2\n", 2),
        ("training:\n  max_steps: 2\n", 1),
        ("seed: 1\n", 1),
    ],
)
def test_as_many_are_started_as_the_trainer_will_ask_for(tmp_path: Path, config: str, count: int) -> None:
    run = RunDir.create(tmp_path, "a", f"{DATA}{config}")
    require_process_count(World(size=count), run_config(run))
    assert nproc_per_node(run) == count


@pytest.mark.parametrize(
    "config", ["training:\n  nproc_per_node: many\n", "training:\n  nproc_per_node: 2\n  maxsteps: 1\n", "{"]
)
def test_one_is_started_to_say_that_the_configuration_cannot_be_used(tmp_path: Path, config: str) -> None:
    run = RunDir.create(tmp_path, "a", f"{DATA}{config}")
    assert (nproc_per_node(run), torchrun_command(run)) == (1, "")


def test_a_configuration_that_was_cut_short_is_told(run: RunDir) -> None:
    run.config.write_text(DATA)
    with pytest.raises(RunError):
        nproc_per_node(run)


def test_several_machines_get_a_command_that_torchrun_s_own_reader_takes(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a folder", "a", f"{DATA}training:\n  nproc_per_node: 4\n  nnodes: 2\n")
    program, *words = shlex.split(torchrun_command(run))
    read = get_args_parser().parse_args(words)
    assert (program, read.nnodes, read.nproc_per_node, read.rdzv_id) == ("torchrun", "2", "4", run.id)
    assert (read.rdzv_backend, read.rdzv_endpoint) == ("c10d", "FIRST_MACHINE:29500")
    assert (read.module, read.training_script, read.training_script_args) == (
        True,
        "backend.trainer_main",
        [str(run.path)],
    )


def test_one_machine_needs_no_command(run: RunDir) -> None:
    assert torchrun_command(run) == ""
