"""F14, F16: a disk that is full or refuses while a checkpoint is written leaves those that were there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from backend.errors import TrainingError
from backend.run.checkpoints import MANIFEST
from backend.training import checkpoint as checkpoint_module
from backend.training.checkpoint import OPTIMIZER, STATE, newest_good, save_checkpoint
from backend.training.loop import TrainState
from tests.backend.core.rows import LORA, lively_model, start
from tests.fakes import FailingFileSystem, RecordingFileSystem

FILES = {"adapter_config.json", "adapter_model.safetensors", MANIFEST, OPTIMIZER, STATE}


def _fresh(step: int = 0) -> TrainState:
    state = start(lively_model(), LORA)
    state.step = step
    return state


def _remains(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """A folder with a checkpoint of step 6."""
    save_checkpoint(tmp_path, _fresh(6), {})
    return tmp_path


def test_f14_a_full_disk_is_said_with_path_and_bytes_and_leaves_nothing(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _remains(checkpoints)
    monkeypatch.setattr(checkpoint_module, "free_bytes", lambda _: 1000)
    state = _fresh(9)
    needed = 3 * sum(part.numel() * 4 for part in state.parameters.values()) + 4 * len(state.parameters)

    with pytest.raises(TrainingError, match="The disk is full") as caught:
        save_checkpoint(checkpoints, state, {})

    assert caught.value.code == "disk-full"
    assert str(checkpoints / "step-000009") in caught.value.message
    assert f"{needed:,} bytes" in caught.value.message
    assert "1,000 are free" in caught.value.message
    assert _remains(checkpoints) == before


@pytest.mark.parametrize("fail_at", range(1, 9))
def test_f16_a_disk_that_refuses_anywhere_leaves_what_was_there(fail_at: int, checkpoints: Path) -> None:
    """Five files, their folder, the new name, the folder around it; after the name only its safety is unsure."""
    state = _fresh(9)
    before = _remains(checkpoints)

    with pytest.raises(TrainingError, match="step-000009") as caught:
        save_checkpoint(checkpoints, state, {}, fs=FailingFileSystem(fail_at, code=errno.EIO))

    assert caught.value.code == "cannot-save"
    assert _remains(checkpoints) == sorted(before + ["step-000009"] * (fail_at == 8))
    assert not newest_good(checkpoints)[1]


def test_every_file_and_folder_is_on_the_disk_before_the_name_is(tmp_path: Path) -> None:
    disk = RecordingFileSystem()

    path = save_checkpoint(tmp_path, _fresh(), {}, fs=disk)

    names = [operation.name for operation in disk.operations]
    synced = {operation.path.name for operation in disk.operations[: names.index("rename")]}
    assert synced >= FILES
    assert disk.operations[names.index("rename")].target == path
    assert (names[-1], disk.operations[-1].path) == ("fsync", tmp_path)


def test_the_disk_filling_up_on_the_way_is_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([10**9, 0, 0])
    monkeypatch.setattr(checkpoint_module, "free_bytes", lambda _: next(free))

    with pytest.raises(TrainingError, match="The disk is full") as caught:
        save_checkpoint(tmp_path, _fresh(), {}, fs=FailingFileSystem(2))

    assert caught.value.code == "disk-full"
    assert _remains(tmp_path) == []


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in the way")

    with pytest.raises(TrainingError, match="could not be written") as caught:
        save_checkpoint(tmp_path / "checkpoints" / "deep", _fresh(), {})

    assert caught.value.code == "cannot-save"
    assert str(tmp_path / "checkpoints") in caught.value.message


def test_notes_that_cannot_be_written_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, _fresh(), {"model": object()})

    assert _remains(tmp_path) == []
