"""How a run is found and named on a command line: backend/commands/options.py."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest

from backend.commands.options import find_run, find_source, shown
from backend.errors import RunError
from backend.run.folder import RunDir


class TestFindingARun:
    def test_by_folder_id_beginning_and_latest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = tmp_path / "runs"
        old, new = (RunDir.create(root, slug, "seed: 1") for slug in ("one", "two"))
        old.path.rename(root / "20200101-000000-one-aaaa")
        old = RunDir(root / "20200101-000000-one-aaaa")
        assert find_run(root, "latest") == new
        assert find_run(root, new.id) == new
        assert find_run(root, "2020") == old
        assert find_run(tmp_path / "elsewhere", str(old.path)) == old

    @pytest.mark.parametrize("name", ["latest", "nothing", "no/where"])
    def test_none(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(RunError) as caught:
            find_run(tmp_path / "runs", name)
        assert caught.value.remedy


def test_a_run_in_the_usual_place_needs_only_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    near, far = (RunDir.create(tmp_path / folder, "a", "seed: 1") for folder in ("runs", "elsewhere"))
    assert shown(near) == near.id
    assert shown(far) == str(far.path)


def test_c16_a_place_with_blanks_can_be_typed_as_it_is_shown(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a folder's name", "a", "seed: 1")
    assert shlex.split(f"tunesmith runs watch {shown(run)}")[-1] == str(run.path)


class TestLatest:
    def test_c7_a_copy_with_a_greater_name_is_not_the_latest(self, tmp_path: Path) -> None:
        old = RunDir.create(tmp_path, "old", "seed: 1")
        shutil.copytree(old.path, tmp_path / "zz-backup")
        new = RunDir.create(tmp_path, "new", "seed: 1")
        assert find_run(tmp_path, "latest") == new

    def test_c7_of_two_runs_of_one_second_the_later_one(self, tmp_path: Path) -> None:
        for name, milliseconds in (("20260101-000000-b-0000", 100), ("20260101-000000-a-0000", 900)):
            run = RunDir(RunDir.create(tmp_path, "x", "seed: 1").path.rename(tmp_path / name))
            time = 1_767_225_600_000 + milliseconds
            os.utime(run.config, ns=(time * 10**6, time * 10**6))
        assert find_run(tmp_path, "latest").id == "20260101-000000-a-0000"

    @pytest.mark.parametrize("name", ["99999999-999999-odd-0000", "odd"])
    def test_c7_a_name_without_a_date_goes_by_its_configuration(self, tmp_path: Path, name: str) -> None:
        odd = RunDir(RunDir.create(tmp_path, "x", "seed: 1").path.rename(tmp_path / name))
        os.utime(odd.config, (1e9, 1e9))
        new = RunDir.create(tmp_path, "new", "seed: 1")
        assert find_run(tmp_path, "latest") == new


class TestARunOrAModel:
    def test_a_model_or_a_run(
        self, trained: RunDir, learner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = trained.path.parent
        assert find_source("smollm2-135m", root) == "smollm2-135m"
        assert find_source("org/model", root) == "org/model"
        assert find_source(str(learner), root) == str(learner)
        assert find_source(str(trained.path), tmp_path) == trained
        assert find_source(trained.id[:15], root) == trained
        assert find_source("latest", root) == trained
        monkeypatch.chdir(root)
        assert find_source(f"./{trained.id}", tmp_path) == trained

    @pytest.mark.parametrize("name", ["nothing", "latest", "a/b/c", "./x", "/no/where"])
    def test_neither(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(RunError) as caught:
            find_source(name, tmp_path)
        assert caught.value.remedy
