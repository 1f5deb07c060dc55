"""Names and manifests of checkpoints: backend/run/checkpoints.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import RunError
from backend.run.checkpoints import (
    MANIFEST,
    checkpoint_folders,
    saved_step,
    step_name,
    step_of,
    verify_folder,
    write_manifest,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "step-000007"
    made.mkdir()
    (made / "weights").write_bytes(b"12345")
    write_manifest(made, 7)
    return made


@pytest.mark.parametrize("step", [0, 7, 999_999, 1_234_567])
def test_a_name_and_its_step(step: int) -> None:
    assert step_of(step_name(step)) == step


@pytest.mark.parametrize(
    "name", ["step-", "step-x", "step--1", "step-1.0", "adapter", ".step-000001", "step-" + "9" * 13]
)
def test_other_names_have_no_step(name: str) -> None:
    assert step_of(name) is None


def test_a_manifest_names_every_file_and_the_step(folder: Path) -> None:
    assert verify_folder(folder) == {"weights"}
    assert saved_step(folder) == 7


@pytest.mark.parametrize(
    ("content", "told"), [(b"1234", "wrong size"), (b"12346", "does not match its hash")]
)
def test_another_content_is_damage(folder: Path, content: bytes, told: str) -> None:
    (folder / "weights").write_bytes(content)
    with pytest.raises(RunError, match=told) as caught:
        verify_folder(folder)
    assert caught.value.code == "damaged-checkpoint"


@pytest.mark.parametrize("manifest", ["{", "{}", '{"files": []}', '{"files": {}}'])
def test_a_manifest_that_names_nothing_is_damage(folder: Path, manifest: str) -> None:
    (folder / MANIFEST).write_text(manifest)
    with pytest.raises(RunError, match=MANIFEST):
        verify_folder(folder)
    assert saved_step(folder) is None


def test_no_folder_holds_no_checkpoints(tmp_path: Path) -> None:
    assert checkpoint_folders(tmp_path / "missing") == []


def test_checkpoints_are_ordered_by_number_and_nothing_else_counts(tmp_path: Path) -> None:
    for name in ("step-000010", "step-000009", "step-1000000", ".step-000011.0123456789abcdef.tmp", "step-x"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-000012").write_text("a file")

    names = [path.name for path in checkpoint_folders(tmp_path)]

    assert names == ["step-000009", "step-000010", "step-1000000"]


@pytest.mark.parametrize(
    ("step", "name"), [(0, "step-000000"), (7, "step-000007"), (1_234_567, "step-1234567")]
)
def test_a_checkpoint_is_named_after_its_step(step: int, name: str) -> None:
    assert step_name(step) == name
