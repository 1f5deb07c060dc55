"""Two processes train one run: the same losses, one writer, and nothing left when one of them dies."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from backend import trainer_main
from backend.cli import main
from backend.manager import process_manager
from backend.manager.attempt_processes import members
from backend.manager.ranks import torchrun_command
from backend.reports import RunStatus
from backend.run_dir import RunDir
from backend.utils.process_utils import ProcessIdentity, send_signal
from tests.eventually import eventually
from tests.runs import (
    LONG,
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
TEN = SHORT | TOGETHER | {"training.max_steps": 10, "evaluation.eval_steps": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learner_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, model: Path, rows: Path) -> RunDir:
    """Ten steps by two processes, which the command line starts in the background; read only."""
    runs = tmp_path_factory.mktemp("runs")
    flags = [f"--{name}={value}" for name, value in (TEN | {"model.dtype": "float32"}).items()]
    given = [f"--data.train={rows}", f"--model.model_name_or_path={model}", "--runs", str(runs)]
    assert main(["train", *flags, *given]) == 0
    (run,) = RunDir.all_under(runs)
    state = process_manager.wait(run, timeout_seconds=PATIENCE_SECONDS)
    assert state.status is RunStatus.FINISHED, run.train_log.read_text()
    return run


def trainers(run: RunDir) -> list[ProcessIdentity]:
    """The living processes of a run's latest attempt, the one that writes first."""
    attempt = run.latest_attempt()
    return members(attempt) if attempt else []


def trained(run: RunDir) -> int:
    return len([line for line in lines(run.metrics_file) if line["kind"] == "train"])


def losses(run: RunDir) -> list[float]:
    return [line.get("train/loss", line.get("eval/loss")) for line in lines(run.metrics_file)]


def test_two_learn_what_one_learns(undisturbed: RunDir, tmp_path: Path, model: Path, rows: Path) -> None:
    alone = TEN | {"training.nproc_per_node": 1, "training.per_device_train_batch_size": 4}
    one = make_run(tmp_path, model, rows, alone)
    assert trainer_main.run(one).status is RunStatus.FINISHED
    assert losses(undisturbed) == pytest.approx(losses(one), rel=1e-4)
    ours, theirs = (load_file(run.adapter / "adapter_model.safetensors") for run in (undisturbed, one))
    assert ours.keys() == theirs.keys()
    assert max(float(abs(ours[name] - theirs[name]).max()) for name in ours) < 1e-3


def test_one_of_them_writes(undisturbed: RunDir) -> None:
    steps = [line["step"] for line in lines(undisturbed.metrics_file) if line["kind"] == "train"]
    assert steps == list(range(1, 11))
    assert [path.name for path in undisturbed.attempts.iterdir()] == ["1.json"]
    assert [path.name for path in undisturbed.path.iterdir() if path.name.startswith(".")] == []
    outcome = undisturbed.read_outcome()
    assert outcome is not None
    assert outcome.message == "Trained 10 steps."


def test_f01_a_killed_process_ends_the_attempt_and_a_resume_gives_the_same_bits(
    undisturbed: RunDir, tmp_path: Path, model: Path, rows: Path
) -> None:
    run = make_run(tmp_path, model, rows, TEN)
    run.write_environment({"plan": undisturbed.read_environment()["plan"]})
    process_manager.start(run)
    eventually(lambda: trained(run) >= 3, timeout_seconds=PATIENCE_SECONDS)
    both = trainers(run)
    assert send_signal(both[1], signal.SIGKILL)
    state = process_manager.wait(run, timeout_seconds=PATIENCE_SECONDS)
    assert (len(both), state.status, state.reason) == (2, RunStatus.INTERRUPTED, "killed")
    assert "killed from outside (SIGKILL)" in state.message
    assert trainers(run) == []
    process_manager.start(run)
    state = process_manager.wait(run, timeout_seconds=PATIENCE_SECONDS)
    assert state.status is RunStatus.FINISHED, run.train_log.read_text()
    assert result_bytes(run) == result_bytes(undisturbed)
    assert series(run) == series(undisturbed)


def test_f04_a_stop_ends_both_with_one_checkpoint(tmp_path: Path, model: Path, rows: Path) -> None:
    run = make_run(tmp_path, model, rows, LONG | TOGETHER)
    process_manager.start(run)
    eventually(lambda: trained(run) >= 2, timeout_seconds=PATIENCE_SECONDS)
    state = process_manager.stop(run)
    assert (state.status, state.reason) == (RunStatus.STOPPED, "stop-requested")
    assert trainers(run) == []
    assert run.newest_checkpoint_step() == trained(run)


def test_what_neither_can_use_is_told_once(tmp_path: Path, model: Path, rows: Path) -> None:
    run = make_run(tmp_path, model, rows, TEN)
    rows_gone = run.config.read_text().replace(str(rows), str(tmp_path / "gone.jsonl"))
    run.config.write_text(rows_gone)
    process_manager.start(run)
    state = process_manager.wait(run, timeout_seconds=PATIENCE_SECONDS)
    assert state.status is RunStatus.FAILED
    assert "gone.jsonl" in state.message
    assert trainers(run) == []


def test_two_machines_that_torchrun_starts_learn_the_same_bits(
    undisturbed: RunDir, tmp_path: Path, model: Path, rows: Path
) -> None:
    """Two agents that meet at an address, as on two machines that share a folder; only they take place on one."""
    run = make_run(tmp_path, model, rows, TEN | {"training.nproc_per_node": 1, "training.nnodes": 2})
    run.write_environment({"plan": undisturbed.read_environment()["plan"]})
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
    assert (run.status(), run.is_held()) == (RunStatus.FINISHED, False)
    assert [path.name for path in run.attempts.iterdir()] == ["1.json"]
    assert result_bytes(run) == result_bytes(undisturbed)
    assert series(run) == series(undisturbed)


def test_another_number_of_processes_is_refused(tmp_path: Path, model: Path, rows: Path) -> None:
    run = make_run(tmp_path, model, rows, TEN)
    outcome = trainer_main.run(run)
    assert (outcome.status, outcome.code) == (RunStatus.FAILED, "other-process-count")
    assert "for 2 processes, not 1" in outcome.message
