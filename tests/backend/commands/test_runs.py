"""Look at runs: backend/commands/runs.py."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.commands.cli import main
from backend.commands.runs import summary_record
from backend.manager.run_summary import summarise
from backend.run.environment import Change
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from tests.runs import do_harm, make_run


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

    def test_methods_have_a_column_once_they_are_not_the_usual_one(
        self, made: RunDir, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["runs", "list"]) == 0
        assert "method" not in capsys.readouterr().out
        RunDir.create(made.path.parent, "b", "seed: 1\nobjective:\n  method: dpo\n")
        assert main(["runs", "list"]) == 0
        table = capsys.readouterr().out
        assert all(word in table for word in ("method", " dpo ", " sft "))

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
