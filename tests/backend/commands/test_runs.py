"""Look at runs and carry them on: backend/commands/runs.py."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.commands.cli import main
from backend.commands.runs import summary_record
from backend.manager import process_manager
from backend.manager.run_summary import summarise
from backend.run.environment import Change
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from backend.run.settings import run_config
from backend.trainer_main import run as carry_out
from tests.runs import do_harm, make_run, series, tree


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


class TestList:
    def test_of_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["runs", "list"]) == 0
        assert "There are no runs in runs yet." in capsys.readouterr().out
        assert shown(["list"], capsys) == []

    def test_newest_first(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("20200101-000000-a-0001", "20210101-000000-b-0002"):
            RunDir.create(tmp_path / "runs", "x", "seed: 1").path.rename(tmp_path / "runs" / name)
        assert [line["id"] for line in shown(["list"], capsys)] == [
            "20210101-000000-b-0002",
            "20200101-000000-a-0001",
        ]

    def test_a_finished_run_with_its_figures(
        self, trained: RunDir, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["list", "--runs", str(trained.path.parent)]
        (line,) = shown(words, capsys)
        assert line == json.loads(json.dumps(summary_record(summarise(trained)), default=list))
        assert (line["status"], line["step"], line["total_steps"]) == ("finished", 20, 20)
        assert main(["runs", *words]) == 0
        screen = capsys.readouterr().out
        assert [
            word for word in (trained.id, "finished", "20/20", f"{line['loss']:.4f}") if word not in screen
        ] == []

    def test_a_damaged_run_is_listed_and_says_so(
        self, made: RunDir, capsys: pytest.CaptureFixture[str]
    ) -> None:
        made.config.write_text("seed")
        (line,) = shown(["list"], capsys)
        assert line["status"] == "failed"
        assert "config.yaml" in line["damage"]


class TestShow:
    def test_a_finished_run(self, trained: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
        record = shown(["show", str(trained.path)], capsys)
        assert record["status"] == "finished"
        assert record["result"] == str(trained.adapter)
        assert main(["runs", "show", str(trained.path)]) == 0
        assert f"status  {RunStatus.FINISHED}" in capsys.readouterr().out

    def test_a_new_run(self, made: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
        record = shown(["show", "latest"], capsys)
        assert (record["id"], record["status"], record["result"]) == (made.id, "created", None)
        assert made.id in record["next_action"]

    @pytest.mark.parametrize("words", [["show"], ["watch", "--once"]])
    def test_a_run_that_did_harm_says_so_and_the_way_back(
        self, words: list[str], made: RunDir, capsys: pytest.CaptureFixture[str]
    ) -> None:
        do_harm(made)
        assert main(["runs", *words, made.id]) == 0
        screen = capsys.readouterr().out
        assert "The result is worse than the untrained model" in screen
        assert f"tunesmith runs resume {made.id} --from-step 20 --lower-lr 0.1" in screen
        assert "Try its answers" not in screen
        assert shown([*words, made.id], capsys)["next_action"] in screen

    def test_a_run_says_what_it_is_computed_on_and_each_change(
        self, trained: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = RunDir(Path(shutil.copytree(trained.path, tmp_path / trained.id)))
        known = replace(
            run.read_environment(), processor="Some CPU", changes=(Change(2, 10, "torch (1 → 2)"),)
        )
        run.write_environment(known)
        assert main(["runs", "show", str(run.path)]) == 0
        screen = capsys.readouterr().out
        assert "Some CPU, float32" in screen
        assert "from step 10 on (attempt 2): torch (1 → 2)" in screen
        assert shown(["show", str(run.path)], capsys)["changes"] == [
            "from step 10 on (attempt 2): torch (1 → 2)"
        ]

    def test_a_run_that_is_none(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["runs", "show", "nothing"]) == 2
        assert capsys.readouterr().err.startswith("Error: There is no run 'nothing'.")


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


class TestFilters:
    def test_by_status(self, made: RunDir, trained: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
        assert [line["id"] for line in shown(["list", "--status", "created"], capsys)] == [made.id]
        assert shown(["list", "--status", "finished"], capsys) == []
        assert main(["runs", "list", "--status", "finished"]) == 0
        assert "No run in runs is like that." in capsys.readouterr().out
        assert main(["runs", "list", "--status", "asleep"]) == 2

    def test_by_text(self, made: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
        assert [line["id"] for line in shown(["list", "--text", "LORA"], capsys)] == [made.id]
        assert shown(["list", "--text", "qlora"], capsys) == []


class TestResumeElsewhere:
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
