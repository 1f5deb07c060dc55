"""Exports as a whole: backend/export/job.py."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from backend.errors import ExportError, RunError
from backend.export import job
from backend.export.certificate import Light
from backend.export.job import default_folder, export
from backend.export.modelfile import MODELFILE
from backend.export.trained import load_trained
from backend.run.config import RunConfig
from backend.run.folder import RunDir
from backend.utils import file_utils
from backend.utils.lock_utils import is_folder_held
from tests.backend.export.results import finished
from tests.fakes import FailingFileSystem
from tests.runs import make_run, tree, write_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return finished(tmp_path_factory.mktemp("made"))


def test_an_export_is_a_folder_with_its_proof(run: RunDir, tmp_path: Path) -> None:
    said: list[str] = []
    done = export(run, "gguf", out=tmp_path / "out", quantization="F32", rows=2, say=said.append)
    assert done.certificate.light == Light.GREEN
    assert set(done.files) == {"tiny-F32.gguf", "README.md", "certificate.json", "certificate.md"}
    assert done.files == {path.name: path.stat().st_size for path in done.folder.iterdir()}
    assert json.loads((done.folder / "certificate.json").read_text())["light"] == "green"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert said[1] == "Asking the trained model 2 rows"


def test_a_checkpoint_leaves_with_its_step_and_without_the_trainers_state(
    trained: RunDir, tmp_path: Path
) -> None:
    done = export(trained, "adapter", checkpoint="10", out=tmp_path / "out", rows=0)
    assert "at step 10, exported" in (done.folder / "certificate.md").read_text()
    assert "optimizer.safetensors" in {path.name for path in trained.checkpoint(10).iterdir()}
    weights, state = (done.folder / name for name in ("adapter_model.safetensors", "optimizer.safetensors"))
    assert weights.read_bytes() == (trained.checkpoint(10) / weights.name).read_bytes()
    assert not state.exists()


def test_the_run_is_left_as_it_was(run: RunDir, tmp_path: Path) -> None:
    before = tree(run.path)
    export(run, "merged", out=tmp_path / "out", dtype="float32", rows=0)
    assert tree(run.path) == before


def test_the_same_run_gives_the_same_bytes(run: RunDir, tmp_path: Path) -> None:
    files = [export(run, "gguf", out=tmp_path / name, rows=0).folder / "tiny-Q8_0.gguf" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_nothing_is_overwritten(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError) as caught:
        export(run, "adapter", out=tmp_path / "out")
    assert caught.value.code == "exists"
    assert list((tmp_path / "out").iterdir()) == []


def test_who_comes_second_overwrites_nothing_and_leaves_nothing(run: RunDir, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ExportError, match="exists already") as caught:
        export(run, "merged", out=out, rows=0, say=lambda _: out.mkdir(exist_ok=True))
    assert (caught.value.code, [path.name for path in tmp_path.iterdir()]) == ("exists", ["out"])


def test_nobody_deletes_the_run_meanwhile(run: RunDir, tmp_path: Path) -> None:
    used: list[bool] = []
    export(run, "adapter", out=tmp_path / "out", rows=0, say=lambda _: used.append(is_folder_held(run.path)))
    assert set(used) == {True}
    assert not is_folder_held(run.path)


def test_no_rows_is_amber_and_says_so(run: RunDir, tmp_path: Path) -> None:
    done = export(run, "adapter", out=tmp_path / "out", rows=0)
    assert (done.certificate.light, done.certificate.rows) == (Light.AMBER, 0)
    assert "no rows were requested" in done.certificate.reasons[0]


def test_rows_that_are_gone_leave_it_unchecked(tmp_path: Path) -> None:
    made = finished(tmp_path / "made")
    (tmp_path / "made" / "rows.jsonl").unlink()
    done = export(made, "adapter", out=tmp_path / "out")
    assert done.certificate.light == Light.AMBER
    assert "rows.jsonl" in done.certificate.reasons[0]


@pytest.mark.parametrize("rows", [0, 2])
def test_a_modelfile_is_never_green(rows: int, run: RunDir, tmp_path: Path) -> None:
    done = export(run, "ollama", out=tmp_path / "out", quantization="F32", rows=rows)
    assert MODELFILE in done.files
    assert done.certificate.light == Light.AMBER
    assert "The Modelfile was not tested with Ollama" in done.certificate.reasons[-1]


def test_an_unfinished_run_has_nothing_to_export(learner: Path, tmp_path: Path) -> None:
    made = make_run(tmp_path / "runs", learner, write_rows(tmp_path / "rows.jsonl"))
    with pytest.raises(RunError) as caught:
        export(made, "adapter", out=tmp_path / "out")
    assert caught.value.code == "unfinished-run"


def test_a_full_disk_is_seen_before_anything_is_written(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "free_bytes", create_autospec(job.free_bytes, return_value=1000))
    with pytest.raises(ExportError, match="GB free") as caught:
        export(run, "adapter", out=tmp_path / "deep" / "out")
    assert caught.value.code == "disk-full"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fail_at", [1, 4, 7])
def test_a_disk_that_refuses_leaves_nothing(
    fail_at: int, run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = create_autospec(file_utils.file_system, return_value=FailingFileSystem(fail_at))
    monkeypatch.setattr(file_utils, "file_system", refusing)
    with pytest.raises(ExportError) as caught:
        export(run, "adapter", out=tmp_path / "out", rows=0)
    assert caught.value.code == "cannot-write"
    assert os.strerror(28) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"target": "tarball"}, "bad-target"),
        ({"target": "gguf", "quantization": "Q99"}, "bad-precision"),
        ({"target": "merged", "dtype": "int8"}, "bad-precision"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    options: dict[str, Any], code: str, run: RunDir, tmp_path: Path
) -> None:
    with pytest.raises(ExportError) as caught:
        export(run, out=tmp_path / "out", **options)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tuning": {"qat_scheme": "Q4_0"}}, "trained for Q4_0"),
        ({"objective": {"method": "grpo", "rewards": [{"type": "equals"}]}}, "need no answers"),
    ],
)
def test_an_importance_matrix_that_would_spoil_the_file_is_refused(
    changes: dict[str, Any], reason: str, run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = load_trained(run, None, None)
    config = RunConfig.model_validate({**trained.config.model_dump(), **changes})
    monkeypatch.setattr(job, "load_trained", lambda *_: replace(trained, config=config))
    with pytest.raises(ExportError, match=reason) as caught:
        export(run, "gguf", quantization="Q4_0", imatrix=True, out=tmp_path / "out")
    assert caught.value.code == "no-imatrix"
    assert list(tmp_path.iterdir()) == []


def test_the_usual_place_says_what_is_in_it(run: RunDir) -> None:
    assert default_folder(run, "adapter", "float32") == Path("exports") / f"{run.id}-adapter"
    assert default_folder(run, "gguf", "Q8_0") == Path("exports") / f"{run.id}-gguf-Q8_0"
    of_a_step = default_folder(run, "adapter", "float32", "step-000010")
    assert of_a_step == Path("exports") / f"{run.id}-step-000010-adapter"
