"""Go on with a run or branch off from it: backend/commands/resume.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from backend.commands.cli import main
from backend.manager import process_manager
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from backend.run.settings import run_config
from backend.trainer_main import run as carry_out
from tests.runs import make_run, series, tree


@pytest.fixture(autouse=True)
def _wide_screen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def made(tmp_path: Path, learner: Path, rows_file: Path) -> RunDir:
    return make_run(tmp_path / "runs", learner, rows_file)


def shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(["runs", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


class TestResume:
    def test_a_stopped_run_goes_on_to_its_end(self, made: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
        assert carry_out(made, lambda _: made.request_stop()).code == "stop-requested"
        assert main(["runs", "resume", made.id]) == 0
        assert "Finished: Trained 4 steps." in capsys.readouterr().out
        assert [line["step"] for line in series(made) if line["kind"] == "train"] == [1, 2, 3, 4]
        assert made.status() is RunStatus.FINISHED

    def test_a_finished_run_stays_finished(
        self, trained: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        copy = shutil.copytree(trained.path, tmp_path / "runs" / trained.id)
        told = shown(["resume", str(copy)], capsys)
        assert (told["run"], told["status"], told["step"]) == (trained.id, "finished", 20)

    def test_alerts_that_would_not_be_sent_are_refused(
        self, made: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("TUNESMITH_ALERT_WEBHOK", "https://here")
        before = tree(made.path)
        assert main(["runs", "resume", made.id]) == 2
        assert "TUNESMITH_ALERT_WEBHOK: is no setting of alerts" in capsys.readouterr().err
        assert tree(made.path) == before

    def test_a_busy_run_is_refused(self, made: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
        with made.lock():
            assert main(["runs", "resume", made.id]) == 2
        assert "is being worked on already" in capsys.readouterr().err


class TestResumeElsewhere:
    @pytest.mark.slow
    @pytest.mark.usefixtures("light_trainer")
    def test_in_the_background(self, made: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
        found = shown(["resume", made.id, "--detach"], capsys)
        assert (found["run"], found["attempt"]) == (made.id, 1)
        assert process_manager.wait(made, timeout_seconds=120).status is RunStatus.FINISHED

    def test_a_branch_says_where_it_comes_from(
        self, made: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert carry_out(made).code == "completed"
        words = ["--from-step", "2", "--lower-lr", "0.5", "--skip-rows", "foods.jsonl:1, foods.jsonl:2"]
        assert main(["runs", "resume", made.id, *words]) == 0
        (branch,) = [run for run in RunDir.all_under(tmp_path / "runs") if run != made]
        origin = (
            f"Branched off {made.id} at step 2, learning rate 0.015, without foods.jsonl:1, foods.jsonl:2."
        )
        assert origin in capsys.readouterr().out
        assert shown(["show", branch.id], capsys)["labels"]["note"] == origin
        assert branch.status() is RunStatus.FINISHED
        config = run_config(branch)
        assert config.training.learning_rate == 0.015
        assert config.data.skip_rows == ["foods.jsonl:1", "foods.jsonl:2"]

    def test_a_branch_that_needs_less_memory_over_a_base_that_was_moved(
        self, made: RunDir, learner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert carry_out(made).code == "completed"
        moved = Path(shutil.copytree(learner, tmp_path / "moved"))
        words = ["--from-step", "2", "--training.micro_batch_tokens", "64", "--base-model", str(moved)]
        assert main(["runs", "resume", made.id, *words]) == 0
        (branch,) = [run for run in RunDir.all_under(tmp_path / "runs") if run != made]
        assert f"64 tokens at once, over the base model in {moved}" in capsys.readouterr().out
        config = run_config(branch)
        assert (config.training.micro_batch_tokens, config.model.model_name_or_path) == (64, str(moved))
        assert branch.status() is RunStatus.FINISHED

    def test_a_row_that_is_not_there_makes_no_branch(
        self, made: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["runs", "resume", made.id, "--skip-rows", "foods.jsonl:999"]) == 2
        assert "foods.jsonl:999, which is no training row" in capsys.readouterr().err
        assert RunDir.all_under(tmp_path / "runs") == [made]


def test_a_damaged_configuration_is_told_before_anything_is_done(
    made: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.config.write_text(made.config.read_text()[:100])
    before = tree(made.path)
    for words in (["--detach"], []):
        assert main(["runs", "resume", made.id, *words, "--runs", str(tmp_path / "runs")]) == 2
        told = capsys.readouterr().err
        assert "config.yaml: it is cut short" in told
        assert "Restore it from a copy" in told
    assert tree(made.path) == before
