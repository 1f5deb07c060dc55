"""Training with and without augmentation: backend/commands/ablate.py."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from backend import trainer_main
from backend.commands.cli import main
from backend.manager import alerts
from backend.run.folder import RunDir
from backend.run.reports import Outcome, RunStatus
from backend.run.settings import run_config
from tests.backend.commands.test_train import short
from tests.runs import write_rows

VARIED = ["--augmentation.prompt_templates", "['Say: {prompt}']", "--training.neftune_noise_alpha", "5"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.slow
def test_pairs_of_runs_and_a_verdict(
    learner: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = short(learner, rows_file, training__max_steps=2)
    assert main(["train", *words, *VARIED, "--ablate", "2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    runs = RunDir.all_under(tmp_path / "runs")
    assert len(runs) == 4
    assert {run.status() for run in runs} == {RunStatus.FINISHED}
    by_id = {run.id: run_config(run) for run in runs}
    assert [by_id[name].augmentation.prompt_templates for name in shown["runs"]["with"]] == [
        ["Say: {prompt}"]
    ] * 2
    assert [by_id[name].augmentation.prompt_templates for name in shown["runs"]["without"]] == [[], []]
    assert [by_id[name].seed for name in shown["runs"]["with"]] == [42, 43]
    assert {each.training.max_steps for each in by_id.values()} == {shown["steps"]} == {2}
    loss = shown["differences"][0]
    assert loss["score"] == "loss"
    assert loss["low"] <= loss["mean"] <= loss["high"]
    assert loss["with_it"] != loss["without"]
    assert shown["warnings"] == []


def test_the_table_for_a_person(
    learner: Path, rows_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {(42, True): 1.0, (42, False): 1.5, (43, True): 1.0, (43, False): 1.52}

    def trained(run: RunDir, _: object) -> Outcome:
        config = run_config(run)
        loss = losses[config.seed, bool(config.augmentation.prompt_templates)]
        with run.metrics_writer() as writer:
            writer.append({"kind": "eval", "step": 0, "eval/loss": 9.0})
            writer.append({"kind": "eval", "step": 4, "eval/loss": loss})
        return Outcome(RunStatus.FINISHED, "completed", "Trained 4 steps.", "")

    monkeypatch.setattr(trainer_main, "run", create_autospec(trainer_main.run, side_effect=trained))
    alerted = create_autospec(alerts.send, return_value=("Nobody heard.",))
    monkeypatch.setattr("backend.commands.carry_out.send", alerted)
    assert main(["train", *short(learner, rows_file), *VARIED, "--ablate", "2"]) == 0
    screen, problems = capsys.readouterr()
    made = {run.id for run in RunDir.all_under(Path("runs"))}
    assert {call.args[0].run for call in alerted.call_args_list} == made
    assert problems.count("Nobody heard.") == 4
    assert "4 runs of 4 steps" in screen
    assert screen.count("Trained 4 steps.") == 4
    (line,) = (line for line in screen.splitlines() if line.startswith("│ loss"))
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        *("loss", "1.5100", "1.0000", "-0.5100", "-0.6371 to -0.3829", "better")
    ]


def test_nothing_to_leave_out_writes_nothing(
    learner: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *short(learner, rows_file), "--ablate", "3", "--json"]) == 2
    assert "augmentation" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("as_json", [True, False])
def test_a_run_that_fails_ends_it(
    learner: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    as_json: bool,
) -> None:
    failed = Outcome(RunStatus.FAILED, "disk-full", "The disk is full.", "Make room.")
    monkeypatch.setattr(trainer_main, "run", lambda run, view: failed)
    rows = write_rows(tmp_path / "rows.jsonl")
    words = ["train", *short(learner, rows), *VARIED, "--ablate", "2", *["--json"] * as_json]
    assert main(words) == 1
    assert "The disk is full." in capsys.readouterr().out
    (run,) = RunDir.all_under(tmp_path / "runs")
    pinned = hashlib.sha256(rows.read_bytes()).hexdigest()
    assert run_config(run).data.sha256 == {str(rows): pinned}
