"""Two processes train one run: the same losses, one writer, and nothing left when one of them dies."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from backend import trainer_main
from backend.commands.cli import main
from backend.manager import process_manager
from backend.manager.attempts import members
from backend.manager.ranks import torchrun_command
from backend.run.environment import Environment
from backend.run.folder import RunDir
from backend.run.reports import RunState, RunStatus
from backend.utils.process_utils import ProcessIdentity, send_signal
from tests.eventually import eventually
from tests.runs import (
    SHORT,
    child_environment,
    learner_folder,
    lines,
    make_run,
    result_bytes,
    series,
    write_rows,
)

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0
TOGETHER = {"training.nproc_per_node": 2, "training.per_device_train_batch_size": 2}
STEPS = 60
RUN = (
    SHORT
    | TOGETHER
    | {
        "training.max_steps": STEPS,
        "training.save_steps": 20,
        "training.learning_rate": 0.001,
        "evaluation.eval_steps": 0,
    }
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learner_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@dataclass(frozen=True)
class Life:
    """A run that was stopped, lost one of its two processes when it went on, and was then trained to its end."""

    run: RunDir
    stopped: RunState
    saved: tuple[int, int]
    """The newest checkpoint and the steps trained, once it was stopped."""
    both: list[ProcessIdentity]
    killed: RunState
    left: list[ProcessIdentity]
    """Whoever lived on after the stop and after the kill."""


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory, model: Path, rows: Path) -> Life:
    """The command line starts it in the background; read only."""
    runs = tmp_path_factory.mktemp("runs")
    flags = [f"--{name}={value}" for name, value in (RUN | {"model.dtype": "float32"}).items()]
    given = [f"--data.train={rows}", f"--model.model_name_or_path={model}", "--runs", str(runs)]
    assert main(["train", *flags, *given]) == 0
    (run,) = RunDir.all_under(runs)
    eventually(lambda: trained(run) >= 2, timeout_seconds=PATIENCE_SECONDS)
    stopped = process_manager.stop(run)
    left, saved = at_work(run), (run.newest_checkpoint_step(), trained(run))

    process_manager.start(run)
    eventually(lambda: trained(run) > saved[1], timeout_seconds=PATIENCE_SECONDS)
    both = at_work(run)
    assert send_signal(both[1], signal.SIGKILL)
    killed = process_manager.wait(run, timeout_seconds=PATIENCE_SECONDS)
    left += at_work(run)

    process_manager.start(run)
    state = process_manager.wait(run, timeout_seconds=PATIENCE_SECONDS)
    assert state.status is RunStatus.FINISHED, run.train_log.read_text()
    return Life(run, stopped, saved, both, killed, left)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, life: Life, model: Path, rows: Path) -> RunDir:
    """The same in one go, by two agents of torchrun that meet at an address, as on two machines that share a folder.

    Only they take place on one; read only.
    """
    asked = RUN | {"training.nproc_per_node": 1, "training.nnodes": 2}
    run = make_run(tmp_path_factory.mktemp("undisturbed"), model, rows, asked)
    known = life.run.read_environment()
    run.write_environment(Environment(plan=known.plan, layers=known.layers))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = torchrun_command(run).replace("FIRST_MACHINE:29500", address)
    environ = child_environment(
        GLOO_SOCKET_IFNAME="lo", PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    with contextlib.ExitStack() as stack:
        agents = [
            stack.enter_context(subprocess.Popen(shlex.split(command), env=environ, cwd=ROOT))
            for _ in range(2)
        ]
        assert [agent.wait(PATIENCE_SECONDS) for agent in agents] == [0, 0], run.train_log.read_text()
    return run


def at_work(run: RunDir) -> list[ProcessIdentity]:
    """The living processes of a run's latest attempt, the one that writes first."""
    attempt = run.latest_attempt()
    return members(run, attempt) if attempt else []


def trained(run: RunDir) -> int:
    return max((line["step"] for line in lines(run.metrics_file) if line["kind"] == "train"), default=0)


def losses(run: RunDir) -> list[float]:
    return [line.get("train/loss", line.get("eval/loss")) for line in lines(run.metrics_file)]


def test_f04_a_stop_ends_both_with_one_checkpoint(life: Life) -> None:
    assert (life.stopped.status, life.stopped.reason) == (RunStatus.STOPPED, "stop-requested")
    assert life.left == []
    newest, steps = life.saved
    assert newest == steps < STEPS


def test_f01_a_killed_process_ends_the_attempt(life: Life) -> None:
    assert (len(life.both), life.killed.status, life.killed.reason) == (2, RunStatus.INTERRUPTED, "killed")
    assert "killed from outside (SIGKILL)" in life.killed.message
    assert life.left == []


def test_f01_what_was_stopped_and_killed_ends_with_the_bits_of_two_machines_that_nothing_disturbed(
    life: Life, undisturbed: RunDir
) -> None:
    assert life.run.latest_attempt_number() == 3
    assert result_bytes(life.run) == result_bytes(undisturbed)
    assert series(life.run) == series(undisturbed)


def test_two_learn_what_one_learns(undisturbed: RunDir, tmp_path: Path, model: Path, rows: Path) -> None:
    alone = RUN | {"training.nproc_per_node": 1, "training.per_device_train_batch_size": 4}
    one = make_run(tmp_path, model, rows, alone)
    assert trainer_main.run(one).status is RunStatus.FINISHED
    assert losses(undisturbed) == pytest.approx(losses(one), rel=1e-4)
    ours, theirs = (load_file(run.adapter / "adapter_model.safetensors") for run in (undisturbed, one))
    assert ours.keys() == theirs.keys()
    assert max(float(abs(ours[name] - theirs[name]).max()) for name in ours) < 1e-3


@pytest.mark.parametrize(("name", "attempts"), [("life", 3), ("undisturbed", 1)])
def test_one_of_them_writes(name: str, attempts: int, life: Life, undisturbed: RunDir) -> None:
    run = {"life": life.run, "undisturbed": undisturbed}[name]
    steps = [line["step"] for line in lines(run.metrics_file) if line["kind"] == "train"]
    assert steps == list(range(1, STEPS + 1))
    assert sorted(path.name for path in run.attempts.iterdir()) == [
        f"{n}.json" for n in range(1, attempts + 1)
    ]
    assert [path.name for path in run.path.iterdir() if path.name.startswith(".")] == []
    assert (run.status(), run.is_held()) == (RunStatus.FINISHED, False)
    outcome = run.read_outcome()
    assert outcome is not None
    assert outcome.message == f"Trained {STEPS} steps."


def test_another_number_of_processes_is_refused(tmp_path: Path, model: Path, rows: Path) -> None:
    run = make_run(tmp_path, model, rows, RUN)
    outcome = trainer_main.run(run)
    assert (outcome.status, outcome.code) == (RunStatus.FAILED, "other-process-count")
    assert "for 2 processes, not 1" in outcome.message
