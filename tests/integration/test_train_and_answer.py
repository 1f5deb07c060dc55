"""The main job through the command line as a person runs it: rows in, a model that answers out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from backend.commands.cli import main
from backend.inferencer import Inferencer
from backend.run.folder import RunDir
from backend.run.reports import Outcome, RunStatus
from tests.backend.test_inferencer import greedy, reference
from tests.eventually import eventually
from tests.runs import LEARN, child_environment, learner_folder, lines, series, tree, write_rows


def flags(changes: dict[str, Any]) -> list[str]:
    return [word for name, value in changes.items() for word in (f"--{name}", str(value).lower())]


def tunesmith(*words: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "backend.commands.cli", *words],
        env=child_environment(PYTHONPATH=str(Path(__file__).parents[2])),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and rows, before anything else is in it."""
    folder = tmp_path_factory.mktemp("place")
    learner_folder(folder / "model")
    write_rows(folder / "rows.jsonl")
    return folder


@pytest.fixture(scope="module")
def before(place: Path) -> dict[str, bytes]:
    return tree(place)


@dataclass(frozen=True)
class Stopped:
    """How ``tunesmith train`` ended on Ctrl-C: its code, what it printed, and where the run stood."""

    code: int
    out: str
    err: str
    outcome: Outcome | None
    newest_checkpoint: int


@pytest.fixture(scope="module")
def stopped(place: Path, before: dict[str, bytes]) -> Stopped:
    """It trains in a process of its own, until SIGINT."""
    fixed = {"model.model_name_or_path": "model", "model.dtype": "float32", "data.train": "rows.jsonl"}
    child = tunesmith("train", *flags(fixed | LEARN | {"logging.tensorboard": True}), cwd=place)
    eventually(
        lambda: any(lines(path) for path in (place / "runs").glob("*/metrics.jsonl")) or child.poll(),
        timeout_seconds=120,
    )
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=120)
    (run,) = RunDir.all_under(place / "runs")
    return Stopped(child.returncode, out, err, run.read_outcome(), run.newest_checkpoint_step())


@pytest.fixture(scope="module")
def told(place: Path, stopped: Stopped) -> dict[str, Any]:
    """What ``tunesmith runs resume --json`` printed; it trained the rest in a process of its own."""
    child = tunesmith("runs", "resume", "latest", "--json", cwd=place)
    out, err = child.communicate(timeout=180)
    assert (child.returncode, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture(scope="module")
def run(told: dict[str, Any]) -> RunDir:
    return RunDir.open(Path(told["path"]))


def test_ctrl_c_saves_and_the_run_goes_on(stopped: Stopped, run: RunDir) -> None:
    assert stopped.outcome is not None
    assert (stopped.code, stopped.outcome.code) == (130, "sigint")
    assert f"tunesmith runs resume {run.id}" in stopped.out
    assert "Traceback" not in stopped.err
    assert stopped.newest_checkpoint == stopped.outcome.step
    steps = [line["step"] for line in lines(run.metrics_file) if line["kind"] == "train"]
    assert steps == list(range(1, 21))


def test_it_finishes(told: dict[str, Any], run: RunDir, place: Path) -> None:
    assert told["status"] == "finished"
    assert told["result"] == str(run.adapter)
    assert run.status() is RunStatus.FINISHED
    assert run.path.parent == place / "runs"


def test_the_loss_falls(run: RunDir) -> None:
    losses = [line["train/loss"] for line in series(run) if line["kind"] == "train"]
    assert losses[0] > 2.0
    assert losses[-1] < 0.1 * losses[0]
    assert list(run.tensorboard.glob("events.*"))


def test_the_answer_changes(run: RunDir) -> None:
    with Inferencer(run) as tuned, Inferencer(run, base=True) as base:
        assert tuned.infer("test input") == "expected output"
        assert base.infer("test input", max_new_tokens=16) != "expected output"


def test_adapter_and_checkpoint_reload_in_transformers_and_peft(run: RunDir, place: Path) -> None:
    plain = reference(place / "model", run.adapter)
    assert greedy(plain, place / "model", "test input", 16) == "expected output"
    result, last = (
        load_file(folder / "adapter_model.safetensors") for folder in (run.adapter, run.checkpoint(20))
    )
    assert result.keys() == last.keys()
    assert all(torch.equal(result[name], last[name]) for name in result)


def test_the_base_stays_frozen_and_the_adapter_moves(run: RunDir, place: Path) -> None:
    first, last = (load_file(run.checkpoint(step) / "adapter_model.safetensors") for step in (10, 20))
    assert not any(torch.equal(first[name], last[name]) for name in first)
    assert all("lora_" in name for name in first)


def test_model_and_rows_are_as_they_were(place: Path, before: dict[str, bytes], run: RunDir) -> None:
    now = tree(place)
    assert {name: now[name] for name in before} == before
    assert {name.split("/")[0] for name in now.keys() - before.keys()} == {"runs"}


def test_the_command_answers_from_the_folder(
    run: RunDir, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That another process can is proved by the server that the openai client asks."""
    assert run.status() is RunStatus.FINISHED
    monkeypatch.chdir(place)
    assert main(["infer", "latest", "--prompt", "test input"]) == 0
    assert capsys.readouterr() == ("expected output\n", "")
