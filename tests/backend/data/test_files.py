from pathlib import Path

import pytest

from backend.data.files import regular_file, unreadable, unwritable
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
