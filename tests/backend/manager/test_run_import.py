"""Copies of run folders from elsewhere: backend/manager/run_import.py."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from backend.errors import RunError
from backend.manager import run_import
from backend.manager.run_manager import RunManager
from backend.run.folder import RunDir
from backend.utils.file_utils import sweep_temporaries
from tests.runs import tree

NEW_ID = re.compile(r"\d{8}-\d{6}-[a-z0-9-]+-[0-9a-f]{4}")


@pytest.fixture
def manager(root: Path) -> RunManager:
    return RunManager(root)


@pytest.fixture
def elsewhere(tmp_path: Path) -> RunDir:
    """A run in somebody else's folder."""
    run = RunDir.create(tmp_path / "elsewhere", "food", "seed: 1")
    attempt = run.begin_attempt(("a",))
    run.end_attempt(attempt, "exited", exit_code=0)
    return run


def called(run: RunDir, name: str) -> RunDir:
    return RunDir(run.path.rename(run.path.with_name(name)))


@pytest.mark.parametrize(
    "name",
    [
        *(".queue.lock", ".server", "latest", "base", "-rf", "@x", "a b", "evil\x1b[31mred", "x" * 200),
        *("queue.json", "exports", "con", "a%2fb", "ünïcode", "trailing."),
    ],
)
def test_b16_a_folder_name_that_cannot_be_an_id_gives_a_new_one(
    manager: RunManager, elsewhere: RunDir, name: str
) -> None:
    made = manager.import_folder(called(elsewhere, name).path)
    assert NEW_ID.fullmatch(made.id)
    assert [item.id for item in manager.list()] == [made.id]
    assert manager.find(made.id) == made


@pytest.mark.parametrize("name", ["20260101-120000-food-ab12", "my-copy", "run.2"])
def test_a_fitting_name_is_kept(manager: RunManager, elsewhere: RunDir, name: str) -> None:
    assert manager.import_folder(called(elsewhere, name).path).id == name


def test_c12_nothing_is_written_where_it_comes_from(manager: RunManager, elsewhere: RunDir) -> None:
    before = tree(elsewhere.path)
    manager.import_folder(elsewhere.path)
    assert tree(elsewhere.path) == before


def test_c12_a_lock_that_is_there_is_respected_and_left(manager: RunManager, elsewhere: RunDir) -> None:
    with elsewhere.lock(), pytest.raises(RunError, match="being worked on"):
        manager.import_folder(elsewhere.path)
    manager.import_folder(elsewhere.path)
    assert elsewhere.lock_file.exists()


def test_requests_stay_and_results_of_the_same_name_come(manager: RunManager, elsewhere: RunDir) -> None:
    for name in ("run.lock", "stop", "queued", "reserve"):
        (elsewhere.path / name).write_text("{}")
    elsewhere.model.mkdir()
    (elsewhere.model / "stop").write_text("tokens")
    made = manager.import_folder(elsewhere.path)
    assert sorted(path.name for path in made.path.iterdir()) == ["attempts", "config.yaml", "model"]
    assert (made.model / "stop").read_text() == "tokens"


@pytest.mark.parametrize("place", ["checkpoints", "adapter/weights", "metrics.jsonl"])
def test_links_are_refused_since_they_lead_back(
    manager: RunManager, elsewhere: RunDir, tmp_path: Path, place: str
) -> None:
    (elsewhere.path / place).parent.mkdir(exist_ok=True)
    (elsewhere.path / place).symlink_to(tmp_path)
    with pytest.raises(RunError, match="is a link") as caught:
        manager.import_folder(elsewhere.path)
    assert caught.value.code == "bad-run-folder"
    assert list(manager.root.glob(".*tmp")) == []


def test_a_pipe_is_refused_and_not_waited_for(manager: RunManager, elsewhere: RunDir) -> None:
    os.mkfifo(elsewhere.path / "pipe")
    with pytest.raises(RunError, match="no plain file"):
        manager.import_folder(elsewhere.path)


@pytest.mark.parametrize("name", ["latest", "-x", "a@b", "taken", "\x1b[5mblink"])
def test_a_label_that_cannot_be_kept_goes_into_the_note(
    manager: RunManager, elsewhere: RunDir, name: str
) -> None:
    manager.rename(RunDir.create(manager.root, "other", "seed: 1").id, "taken")
    elsewhere.labels_file.write_text(json.dumps({"name": name, "note": "good", "tags": ["a"]}))
    labels = manager.show(manager.import_folder(elsewhere.path).id).labels
    assert (labels.name, labels.tags) == ("", ("a",))
    assert labels.note.startswith("good (It was called")


def test_a_label_that_is_free_is_kept(manager: RunManager, elsewhere: RunDir) -> None:
    elsewhere.labels_file.write_text(json.dumps({"name": "food"}))
    made = manager.import_folder(elsewhere.path)
    assert manager.find("food") == made


def test_what_came_meanwhile_is_not_replaced(
    manager: RunManager, elsewhere: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree

    def slow(*arguments: object, **options: object) -> object:
        (manager.root / elsewhere.id).mkdir(exist_ok=True)
        return copy(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("backend.manager.run_import.shutil.copytree", slow)
    with pytest.raises(RunError, match="exists already") as caught:
        manager.import_folder(elsewhere.path)
    assert caught.value.code == "run-exists"


def test_a_copy_is_its_owner_s_alone(manager: RunManager, elsewhere: RunDir) -> None:
    elsewhere.path.chmod(0o755)
    assert stat.S_IMODE(manager.import_folder(elsewhere.path).path.stat().st_mode) == 0o700


def test_a_copy_that_the_disk_refuses_is_told_with_its_reason(
    manager: RunManager, elsewhere: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str, **_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", target)

    monkeypatch.setattr("backend.manager.run_import.shutil.copy2", refuse)
    with pytest.raises(RunError, match=r"could not be copied.*No space left") as caught:
        manager.import_folder(elsewhere.path)
    assert caught.value.code == "cannot-copy"
    assert list(manager.root.glob(".*tmp")) == []


def test_nobody_sweeps_away_a_copy_that_is_being_made(
    manager: RunManager, elsewhere: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[Path] = []

    def copy(*args: Any, **options: Any) -> None:
        swept.extend(sweep_temporaries(manager.root, older_than_seconds=-1))
        copytree(*args, **options)

    copytree = shutil.copytree
    monkeypatch.setattr(run_import.shutil, "copytree", create_autospec(copytree, side_effect=copy))
    assert manager.import_folder(elsewhere.path).exists()
    assert swept == []
