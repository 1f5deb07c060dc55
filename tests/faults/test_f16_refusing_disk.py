"""F16, F17: a disk that answers EIO, EACCES or worse is an error at once, and never a success on a second try."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from backend.errors import RunError
from backend.run.folder import RunDir
from backend.utils.file_utils import publish_folder, read_json, write_json_durably
from tests.fakes import FailingFileSystem


@pytest.mark.parametrize("fail_at", [2, 4])
def test_f16_a_failed_fsync_refuses_the_record(tmp_path: Path, fail_at: int) -> None:
    disk = FailingFileSystem(fail_at, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        write_json_durably(tmp_path / "a.json", {"step": 1}, fs=disk)
    assert disk.done == fail_at


@pytest.mark.parametrize("fail_at", [1, 2, 4])
def test_f16_a_failed_fsync_refuses_the_checkpoint(tmp_path: Path, fail_at: int) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    (staging / "weights").write_bytes(b"w")
    with pytest.raises(OSError, match="Input/output error"):
        publish_folder(staging, tmp_path / "final", fs=FailingFileSystem(fail_at, errno.EIO))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENAMETOOLONG, errno.EMFILE, errno.EDQUOT])
def test_f17_a_run_that_cannot_be_written_is_one_sentence(tmp_path: Path, code: int) -> None:
    with pytest.raises(RunError) as caught:
        RunDir.create(tmp_path, "a", "seed: 1", fs=FailingFileSystem(1, code))
    assert caught.value.code == "runs-not-writable"
    assert str(tmp_path) in caught.value.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "\0"])
def test_f17_impossible_roots(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="could not be written"):
        RunDir.create(tmp_path / name, "a", "seed: 1")


def test_f17_a_file_in_place_of_the_root(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(RunError, match="could not be written"):
        RunDir.create(tmp_path / "runs", "a", "seed: 1")
    assert (tmp_path / "runs").read_text() == "mine"


def test_f17_no_descriptors_left(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from backend.errors import RunError\n"
        "from backend.run.folder import RunDir\n"
        "import os\n"
        "held = []\n"
        "try:\n"
        "    while True:\n"
        "        held.append(os.open(os.devnull, os.O_RDONLY))\n"
        "except OSError:\n"
        "    pass\n"
        "try:\n"
        "    RunDir.create(pathlib.Path(sys.argv[1]), 'a', 'seed: 1')\n"
        "except RunError as error:\n"
        "    os.write(2, str(error).encode())\n"
        "    os._exit(7)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 7
    assert "Too many open files" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_f16_an_error_leaves_the_old_record(tmp_path: Path) -> None:
    write_json_durably(tmp_path / "a.json", {"step": 1})
    with pytest.raises(OSError, match="Input/output error"):
        write_json_durably(tmp_path / "a.json", {"step": 2}, fs=FailingFileSystem(2, errno.EIO))
    assert read_json(tmp_path / "a.json") == {"step": 1}
    assert os.listdir(tmp_path) == ["a.json"]  # noqa: PTH208
