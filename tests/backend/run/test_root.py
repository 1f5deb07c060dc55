"""The folder that holds the runs: backend/run/root.py."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from backend.errors import RunError
from backend.run.folder import RunDir
from backend.run.reports import Outcome, RunStatus
from backend.run.root import match_name, publish_new, require_name, slugify, stamps
from tests.fakes import FailingFileSystem, RecordingFileSystem

DONE = Outcome(RunStatus.FINISHED, "completed", "Done.")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "tiny", "seed: 1")


class TestStamps:
    def test_runs_by_name_and_nothing_else(self, run: RunDir, tmp_path: Path) -> None:
        older = run.path.with_name("20200101-000000-old-0000")
        shutil.copytree(run.path, older)
        shutil.copytree(run.path, run.path.with_name(".hidden"))
        (tmp_path / "link").symlink_to(run.path)
        (tmp_path / "photos").mkdir()
        (tmp_path / "notes.txt").touch()
        assert list(stamps(tmp_path)) == [older.name, run.id]

    @pytest.mark.parametrize("name", ["missing", "file"])
    def test_no_folder_has_no_runs(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").touch()
        assert stamps(tmp_path / name) == {}

    def test_a_run_deleted_meanwhile_is_not_there(
        self, run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stays = RunDir.create(tmp_path, "tiny", "seed: 1")
        with os.scandir(tmp_path) as entries:
            listed = list(entries)
        shutil.rmtree(run.path)
        monkeypatch.setattr(os, "scandir", lambda _folder: listed)
        assert list(stamps(tmp_path)) == [stays.id]

    def test_whatever_happens_to_a_run_moves_its_stamp(self, run: RunDir, tmp_path: Path) -> None:
        seen = [stamps(tmp_path)[run.id]]
        attempt = run.begin_attempt(("a",), pid=os.getpid())
        seen.append(stamps(tmp_path)[run.id])
        run.write_outcome(DONE)
        seen.append(stamps(tmp_path)[run.id])
        run.end_attempt(attempt, "exited", exit_code=0)
        seen.append(stamps(tmp_path)[run.id])
        run.outcome_file.write_text("{")
        seen.append(stamps(tmp_path)[run.id])
        assert len(set(seen)) == 5
        assert stamps(tmp_path)[run.id] == seen[-1]


class TestNewFolders:
    def test_whole_or_not_at_all(self, tmp_path: Path) -> None:
        disk = RecordingFileSystem()
        made = publish_new(tmp_path, "Tiny model: food!", "a.txt", "text", disk)
        assert made.name[15:-4] == "-tiny-model-food-"
        assert (made / "a.txt").read_text() == "text"
        assert [step.name for step in disk.operations] == [
            "mkdir",
            "write",
            "fsync",
            "fsync",
            "rename",
            "fsync",
        ]

    @pytest.mark.parametrize("fail_at", range(1, 7))
    def test_a_refusing_disk_leaves_nothing(self, tmp_path: Path, fail_at: int) -> None:
        with pytest.raises(OSError, match="No space left"):
            publish_new(tmp_path, "a", "a.txt", "text", FailingFileSystem(fail_at))
        assert list(tmp_path.iterdir()) == []

    def test_a_name_that_is_taken_is_not_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tokens = iter(["aaaa", "1" * 16, "aaaa", "2" * 16, "bbbb", "3" * 16])
        monkeypatch.setattr("backend.run.root.datetime", _FrozenClock)
        monkeypatch.setattr("backend.run.root.secrets.token_hex", lambda _: next(tokens))
        names = [publish_new(tmp_path, "a", "a.txt", "", RecordingFileSystem()).name for _ in range(2)]
        assert names == ["20260101-000000-a-aaaa", "20260101-000000-a-bbbb"]
        assert len(list(tmp_path.iterdir())) == 2


class _FrozenClock:
    @staticmethod
    def now(_: object) -> _FrozenClock:
        return _FrozenClock()

    def __format__(self, _: str) -> str:
        return "20260101-000000"


@pytest.mark.parametrize(
    ("text", "slug"),
    [("SmolLM2 135M/food", "smollm2-135m-food"), ("../..", "run"), ("", "run"), ("a" * 99, "a" * 40)],
)
def test_slugs(text: str, slug: str) -> None:
    assert slugify(text) == slug


def test_matching_names() -> None:
    names = ["20260101-food-aaaa", "20260101-food-bbbb"]
    assert match_name("20260101-food-a", names) == names[0]
    for wanted, code in [("2026", "ambiguous-run"), ("", "no-such-run"), ("zzz", "no-such-run")]:
        with pytest.raises(RunError) as caught:
            match_name(wanted, names)
        assert caught.value.code == code


class TestNamesToAskFor:
    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("latest", "a meaning of its own"),
            ("base", "a meaning of its own"),
            (".", "is a folder"),
            ("..", "is a folder"),
            ("--", "read as an option"),
            ("-second", "read as an option"),
            ("food@20", "a checkpoint of a run"),
            ("two\nlines", "nobody can type"),
        ],
    )
    def test_what_means_something_else_is_refused(self, name: str, why: str) -> None:
        with pytest.raises(RunError, match=why) as caught:
            require_name(name)
        assert caught.value.code == "bad-name"

    @pytest.mark.parametrize(
        "name", ["", "best", "rank 8/second try", "latest one", "Käse 🧀", "a.b-c", "<b>"]
    )
    def test_all_else_is_passed(self, name: str) -> None:
        assert require_name(name) is None
