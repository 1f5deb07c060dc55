from pathlib import Path

import pytest

from backend.data.files import regular_file, require_new, unreadable, unwritable
from backend.errors import DataError


def test_regular_file_gives_the_path_back_or_says_what_it_is(tmp_path):
    (tmp_path / "a.jsonl").touch()
    assert regular_file(tmp_path / "a.jsonl") == tmp_path / "a.jsonl"
    with pytest.raises(DataError, match="is a folder"):
        regular_file(tmp_path)
    with pytest.raises(DataError, match="cannot be listed either"):
        regular_file(tmp_path / "no/folder.jsonl")


def test_unreadable_says_what_the_system_said():
    assert "Permission denied" in unreadable(Path("x"), PermissionError(13, "Permission denied")).message


def test_unwritable_names_the_path_and_what_the_system_said():
    error = unwritable(Path("x"), OSError(28, "No space left on device"))
    assert error.message == "x cannot be written: No space left on device."
    assert unwritable(Path("x"), OSError("odd")).message == "x cannot be written: odd."


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_there_is_not_written_over(tmp_path, make):
    assert require_new(tmp_path / "new") == tmp_path / "new"
    make(tmp_path / "old")
    with pytest.raises(DataError, match="not overwritten") as caught:
        require_new(tmp_path / "old")
    assert caught.value.code == "output-exists"
