"""The exports in the studio's folder: app/exports.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.exports import delete_export, exports_folder, find_exports, target_folder
from backend.utils.file_utils import UnsafeNameError, sha256_file


def make_export(
    root: Path, name: str = "run-1-gguf-Q8_0", light: str = "amber", target: str = "gguf"
) -> Path:
    """An export as the exporter leaves it."""
    folder = exports_folder(root) / name
    folder.mkdir(parents=True)
    found = {
        "light": light,
        "reasons": [] if light == "green" else ["One row of 32 differs."],
        "run": "run-1",
        "target": target,
        "precision": "Q8_0",
        "checks": [{"name": "answers", "light": light, "finding": "<b>31</b> of 32 are equal."}],
    }
    (folder / "README.md").write_text("# Card\n<script>alert(1)</script>")
    (folder / "model.gguf").write_bytes(b"0" * 100)
    files = {name: sha256_file(folder / name) for name in ("README.md", "model.gguf")}
    (folder / "certificate.json").write_text(json.dumps({**found, "files": files}))
    return folder


def test_an_export_is_what_its_certificate_says(tmp_path: Path) -> None:
    folder = make_export(tmp_path)
    (found,) = find_exports(tmp_path)
    assert (found.folder, found.run, found.target, found.precision) == (folder, "run-1", "gguf", "Q8_0")
    assert (found.light, found.reasons) == ("amber", ("One row of 32 differs.",))
    assert found.checks[0]["finding"] == "<b>31</b> of 32 are equal."
    assert found.files["model.gguf"] == 100
    assert found.card.startswith("# Card")


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_without_a_whole_certificate_it_is_red(tmp_path: Path, content: str) -> None:
    (make_export(tmp_path) / "certificate.json").write_text(content)
    (found,) = find_exports(tmp_path)
    assert found.light == "red"
    assert "missing or damaged" in found.reasons[0]


def test_there_may_be_none(tmp_path: Path) -> None:
    assert find_exports(tmp_path) == []


def test_a_new_export_never_meets_an_old_one(tmp_path: Path) -> None:
    make_export(tmp_path, "run-1-gguf-Q8_0")
    make_export(tmp_path, "run-1-gguf-Q8_0-2")
    assert target_folder(tmp_path, "run-1", "gguf", "Q8_0").name == "run-1-gguf-Q8_0-3"
    assert target_folder(tmp_path, "run-1", "adapter", "").name == "run-1-adapter"


def test_deleting_takes_one_and_nothing_elsewhere(tmp_path: Path) -> None:
    kept, gone = make_export(tmp_path, "a"), make_export(tmp_path, "b")
    delete_export(tmp_path, "b")
    assert kept.is_dir()
    assert not gone.exists()
    with pytest.raises((UnsafeNameError, OSError)):
        delete_export(tmp_path, "../runs")
