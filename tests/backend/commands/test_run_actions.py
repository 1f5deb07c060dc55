"""Stop, label, compare, explain, delete, import and export: backend/commands/run_actions.py."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from backend.commands.cli import main
from backend.manager import process_manager
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from tests.eventually import eventually
from tests.runs import LONG, make_run, tree


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def done(tmp_path: Path, trained: RunDir) -> RunDir:
    """A copy of a finished run under ./runs."""
    return RunDir(Path(shutil.copytree(trained.path, tmp_path / "runs" / trained.id)))


@pytest.fixture
def new(tmp_path: Path, learner: Path, rows_file: Path) -> RunDir:
    return make_run(tmp_path / "runs", learner, rows_file, LONG)


Screen = pytest.CaptureFixture[str]


def runs(*words: str) -> int:
    return main(["runs", *words])


def record(capsys: Screen, *words: str) -> Any:
    assert runs(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def code(capsys: Screen, *words: str) -> str:
    assert runs(*words, "--json") == 2
    return str(json.loads(capsys.readouterr().out)["error"]["code"])


class TestStopping:
    @pytest.mark.slow
    @pytest.mark.usefixtures("light_trainer")
    def test_a_live_run_is_paused_resumed_and_stopped(self, new: RunDir, capsys: Screen) -> None:
        process_manager.start(new)
        eventually(lambda: new.newest_checkpoint_step() > 0)
        assert runs("pause", new.id) == 0
        screen = capsys.readouterr().out
        assert f"{new.id} saves a checkpoint and pauses" in screen
        assert f"tunesmith runs resume {new.id}" in screen
        assert (new.state().status, new.state().reason) == (RunStatus.STOPPED, "paused")
        process_manager.start(new)
        assert record(capsys, "stop", new.id, "--now")["status"] == "stopped"
        assert not new.is_held()

    def test_what_does_not_run_cannot_be_stopped(self, new: RunDir, capsys: Screen) -> None:
        assert code(capsys, "stop", new.id) == "not-running"
        assert code(capsys, "pause", new.id) == "not-running"


class TestLabels:
    def test_a_name_is_as_good_as_the_id(self, done: RunDir, capsys: Screen) -> None:
        assert record(capsys, "rename", "latest", "second try")["name"] == "second try"
        assert record(capsys, "show", "second try")["id"] == done.id
        assert runs("list") == 0
        assert "second try" in capsys.readouterr().out

    def test_tags_come_and_go(self, done: RunDir, capsys: Screen) -> None:
        assert record(capsys, "tag", done.id, "b", "a")["tags"] == ["a", "b"]
        assert record(capsys, "tag", done.id, "c", "--remove", "a")["tags"] == ["b", "c"]
        assert runs("tag", done.id) == 0
        assert "tags  b c" in capsys.readouterr().out
        assert [line["id"] for line in record(capsys, "list", "--tag", "c")] == [done.id]
        assert record(capsys, "list", "--tag", "a") == []

    def test_a_note(self, done: RunDir, capsys: Screen) -> None:
        assert runs("note", done.id, "half the rate") == 0
        assert "note  half the rate" in capsys.readouterr().out
        assert [line["id"] for line in record(capsys, "list", "--text", "HALF")] == [done.id]

    def test_an_archived_run_is_there_when_asked_for(self, done: RunDir, capsys: Screen) -> None:
        assert runs("archive", done.id) == 0
        assert "archived" in capsys.readouterr().out
        assert record(capsys, "list") == []
        assert [line["id"] for line in record(capsys, "list", "--archived")] == [done.id]
        assert record(capsys, "archive", done.id, "--undo")["archived"] is False

    def test_a_run_elsewhere_is_labelled_where_it_lies(self, done: RunDir, capsys: Screen) -> None:
        elsewhere = Path(shutil.move(done.path, "elsewhere"))
        assert record(capsys, "rename", str(elsewhere), "far")["name"] == "far"
        assert json.loads((elsewhere / "labels.json").read_text())["name"] == "far"


class TestCompare:
    def test_only_what_differs(self, done: RunDir, new: RunDir, capsys: Screen) -> None:
        found = record(capsys, "compare", done.id, new.id)
        assert [one["id"] for one in found["runs"]] == [done.id, new.id]
        assert found["settings"]["tuning.lora_r"] == [16, 4]
        assert "tuning.method" not in found["settings"]
        assert runs("compare", done.id, new.id) == 0
        screen = capsys.readouterr().out
        assert "training.max_steps" in screen
        assert "finished" in screen

    def test_equal_settings(self, done: RunDir, capsys: Screen) -> None:
        assert runs("compare", done.id, done.id) == 0
        assert "Their settings are the same." in capsys.readouterr().out


class TestExplain:
    def test_a_step_that_went_wrong_names_rows_and_a_way_on(self, done: RunDir, capsys: Screen) -> None:
        with done.flight_writer() as flight:
            flight.append({"step": 21, "loss": float("nan"), "grad_norm": 1.0, "rows": ["foods.jsonl:3"]})
        found = record(capsys, "explain", done.id)
        assert found["rows"] == ["foods.jsonl:3"]
        assert runs("explain", done.id) == 0
        screen = capsys.readouterr().out
        assert "Step 21 stands out" in screen
        assert f"tunesmith runs resume {done.id} --lower-lr 0.5 --skip-rows foods.jsonl:3" in screen

    def test_a_run_without_a_step(self, new: RunDir, capsys: Screen) -> None:
        assert runs("explain", new.id) == 0
        assert "No step was recorded." in capsys.readouterr().out


class TestDelete:
    @pytest.mark.parametrize("answer", ["", "\n", "n\n", "no\n", "yep\n"])
    def test_no_is_the_answer_unless_it_is_yes(
        self, done: RunDir, capsys: Screen, monkeypatch: pytest.MonkeyPatch, answer: str
    ) -> None:
        before = tree(done.path)
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        assert runs("delete", done.id) == 0
        assert tree(done.path) == before
        screen = capsys.readouterr().out
        assert "Nothing was deleted." in screen
        assert "finished, step 20 of 20" in screen
        assert "configuration, curves, samples, 2 checkpoints, trained adapter" in screen

    def test_yes(self, done: RunDir, new: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
        assert runs("delete", done.id[:-2]) == 0
        assert not done.path.exists()
        assert new.path.exists()

    def test_unasked_it_takes_the_whole_id(self, done: RunDir, capsys: Screen) -> None:
        assert code(capsys, "delete", done.id[:-1], "--yes") == "not-whole-id"
        assert code(capsys, "delete", "latest", "--yes") == "not-whole-id"
        assert code(capsys, "delete", done.id) == "not-confirmed"
        assert done.path.exists()
        assert record(capsys, "delete", done.id, "--yes")["deleted"] == done.id
        assert not done.path.exists()

    @pytest.mark.parametrize("name", ["", ".", "..", "../runs", "runs", "/", "%2e%2e"])
    def test_what_is_no_run_is_never_deleted(self, done: RunDir, tmp_path: Path, name: str) -> None:
        before = tree(tmp_path)
        assert runs("delete", name, "--yes") == 2
        assert tree(tmp_path) == before

    def test_a_run_at_work_is_not_deleted(self, done: RunDir, capsys: Screen) -> None:
        with done.lock():
            assert code(capsys, "delete", done.id, "--yes") == "illegal-transition"
            assert runs("delete", done.id) == 2
        assert "Delete it?" not in capsys.readouterr().out
        assert done.path.exists()


class TestBundle:
    def test_out_and_in_again(self, done: RunDir, capsys: Screen) -> None:
        written = record(capsys, "export-bundle", done.id)
        assert Path(written["bundle"]) == Path(f"{done.id}.tar.gz").absolute()
        assert "checkpoints" not in written["parts"]
        made = record(capsys, "import", written["bundle"], "--runs", "other")
        assert (made["run"], made["status"]) == (done.id, "finished")
        assert {name for name in tree(Path("other") / done.id) if name.startswith("adapter/")} == {
            name for name in tree(done.path) if name.startswith("adapter/")
        }

    def test_with_checkpoints_under_a_name(self, done: RunDir, capsys: Screen) -> None:
        assert runs("export-bundle", done.id, "--out", "x.tgz", "--checkpoints") == 0
        assert "checkpoints" in capsys.readouterr().out
        with tarfile.open("x.tgz") as archive:
            assert f"{done.id}/checkpoints/step-000020/manifest.json" in archive.getnames()

    def test_a_folder_is_imported_once(self, trained: RunDir, capsys: Screen) -> None:
        assert runs("import", str(trained.path)) == 0
        assert f"Imported {trained.id} (finished)" in capsys.readouterr().out
        assert code(capsys, "import", str(trained.path)) == "run-exists"

    def test_what_is_no_run(self, tmp_path: Path, capsys: Screen) -> None:
        assert code(capsys, "import", str(tmp_path / "nowhere")) == "not-a-run"
        (tmp_path / "x.tar.gz").write_bytes(b"x")
        assert code(capsys, "import", "x.tar.gz") == "bad-bundle"
