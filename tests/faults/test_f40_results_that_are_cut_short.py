"""F40: killed or out of room while a result, a bundle or a copy is written; nothing half stands under its name."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from backend.core.model_loader import load_adapter, load_base
from backend.core.tokenizer import load_tokenizer
from backend.errors import RunError, TrainingError
from backend.manager import bundle
from backend.manager.bundle import write_bundle
from backend.manager.run_manager import RunManager
from backend.run.checkpoints import verify_folder
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from backend.training.checkpoint import save_result
from backend.utils.file_utils import CRASHPOINT
from tests.fakes import FailingFileSystem, RecordingFileSystem

OPERATIONS = range(1, 12)


def in_a_child_that_dies(act: object, point: str) -> int:
    """Carry ``act`` out in a fork that kills itself at a crash point; how it ended."""
    child = os.fork()
    if child == 0:
        os.environ[CRASHPOINT] = point
        try:
            act()  # type: ignore[operator]
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def done(reference: RunDir, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A copy of a finished run."""
    return RunDir(Path(shutil.copytree(reference.path, tmp_path_factory.mktemp("done") / reference.id)))


def temporaries(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.tmp")]


class TestResult:
    def write(self, done: RunDir, tiny_folder: Path, target: Path, **options: object) -> None:
        model = load_adapter(load_base(tiny_folder), done.adapter)
        save_result(model, load_tokenizer(tiny_folder), target, **options)  # type: ignore[arg-type]

    @pytest.mark.parametrize("point", [1, 5, 8])
    def test_f40_a_kill_leaves_the_old_result_or_none_or_the_new(
        self, done: RunDir, tiny_folder: Path, tmp_path: Path, point: int
    ) -> None:
        target = tmp_path / "adapter"
        ended = in_a_child_that_dies(lambda: self.write(done, tiny_folder, target), f"save:{point}")
        assert ended == -signal.SIGKILL
        assert not target.exists()
        self.write(done, tiny_folder, target)
        assert "adapter_model.safetensors" in verify_folder(target)

    def test_f40_a_refusing_disk_leaves_the_old_result(
        self, done: RunDir, tiny_folder: Path, tmp_path: Path
    ) -> None:
        target = tmp_path / "adapter"
        count = RecordingFileSystem()
        self.write(done, tiny_folder, target, fs=count)
        before = (target / "adapter_model.safetensors").read_bytes()
        with pytest.raises(TrainingError, match="adapter"):
            self.write(done, tiny_folder, target, fs=FailingFileSystem(1))
        assert (target / "adapter_model.safetensors").read_bytes() == before
        assert verify_folder(target)
        assert temporaries(tmp_path) == []


class TestBundle:
    def test_f40_no_room_leaves_no_bundle(
        self, done: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        full = create_autospec(os.fsync, side_effect=OSError(errno.ENOSPC, "No space left on device"))
        monkeypatch.setattr(bundle.os, "fsync", full)
        with pytest.raises(RunError, match="No space left"):
            write_bundle(done, tmp_path / "run.tar.gz")
        assert list(tmp_path.iterdir()) == []

    def test_f40_a_kill_leaves_no_bundle_under_its_name(self, done: RunDir, tmp_path: Path) -> None:
        def act() -> None:
            bundle.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
            write_bundle(done, tmp_path / "run.tar.gz")

        assert in_a_child_that_dies(act, "") == -signal.SIGKILL
        assert not (tmp_path / "run.tar.gz").exists()


class TestCopy:
    @pytest.mark.parametrize("point", [1, 10])
    def test_f40_a_kill_leaves_no_half_copied_run(self, done: RunDir, tmp_path: Path, point: int) -> None:
        manager = RunManager(tmp_path / "runs")
        ended = in_a_child_that_dies(lambda: manager.import_folder(done.path), f"save:{point}")
        assert ended == -signal.SIGKILL
        assert RunDir.all_under(manager.root) == []
        copy = manager.import_folder(done.path)
        assert copy.status() is RunStatus.FINISHED
