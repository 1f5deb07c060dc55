"""What is remembered about a folder until a file in it changes: backend/utils/unchanged.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.utils import unchanged
from backend.utils.unchanged import folder_marks, while_unchanged


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two files that are taken to have settled."""
    monkeypatch.setattr(unchanged, "_SETTLED_NS", -(10**18))
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    return tmp_path


@pytest.fixture
def reads() -> list[Path]:
    return []


@pytest.fixture
def content(reads: list[Path]) -> Callable[[Path], bytes]:
    def read(folder: Path) -> bytes:
        reads.append(folder)
        return b" ".join(path.read_bytes() for path in sorted(folder.iterdir()))

    return while_unchanged(read)


def test_what_has_not_changed_is_read_once(
    folder: Path, content: Callable[[Path], bytes], reads: list[Path]
) -> None:
    assert [content(folder) for _ in range(3)] == [b"one two"] * 3
    assert len(reads) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a").write_bytes(b"six"),
        lambda folder: (folder / "a").unlink(),
        lambda folder: (folder / "c").write_bytes(b"new"),
        lambda folder: (folder / "a").rename(folder / "z"),
        lambda folder: _written(folder.parent / "other").replace(folder / "a"),
        lambda folder: _with_the_old_time(folder / "a", b"six"),
    ],
    ids=["content", "gone", "new", "name", "replaced", "content with the old time"],
)
def test_whatever_changes_is_seen(
    folder: Path, content: Callable[[Path], bytes], change: Callable[[Path], object]
) -> None:
    before = content(folder)
    change(folder)
    assert content(folder) != before


def _written(path: Path) -> Path:
    path.write_bytes(b"six")
    return path


def _with_the_old_time(path: Path, content: bytes) -> None:
    seen = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def test_what_changed_just_now_is_read_again(
    folder: Path, content: Callable[[Path], bytes], reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unchanged, "_SETTLED_NS", 10**18)
    content(folder)
    content(folder)
    assert len(reads) == 2


def test_an_error_is_not_remembered(folder: Path) -> None:
    tries: list[Path] = []

    def fail_once(given: Path) -> int:
        tries.append(given)
        return 1 // (len(tries) - 1)

    look = while_unchanged(fail_once)
    with pytest.raises(ZeroDivisionError):
        look(folder)
    assert look(folder) == 1


def test_folders_inside_do_not_count(folder: Path) -> None:
    before = folder_marks(folder)
    (folder / "inner").mkdir()
    assert folder_marks(folder) == before
    assert [mark[0] for mark in before] == ["a", "b"]
