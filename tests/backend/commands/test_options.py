"""How a run is found and named on a command line: backend/commands/options.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.commands.options import find_run, shown
from backend.errors import RunError
from backend.run_dir import RunDir


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
