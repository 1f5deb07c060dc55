"""W10, W11: training reads a person's files and leaves them, and everything beside them, as they were."""

from __future__ import annotations

from pathlib import Path

from backend import trainer_main
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from backend.utils.file_utils import sha256_file
from tests.faults.conftest import MakeRun


def snapshot(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


def test_w10_w11_data_and_model_are_as_before(
    make_run: MakeRun, rows: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "rows.jsonl").write_bytes(rows.read_bytes())
    before = (snapshot(mine), snapshot(tiny_folder))
    for _ in range(2):
        run: RunDir = make_run(tmp_path / "runs", data=mine / "rows.jsonl", max_steps=2)
        assert trainer_main.run(run).status is RunStatus.FINISHED
    assert (snapshot(mine), snapshot(tiny_folder)) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "runs"]
