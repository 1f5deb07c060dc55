"""How rows are read: backend/commands/reading.py."""

from __future__ import annotations

import pytest

from backend.commands.reading import Reading, column_words
from backend.data.sources import ReadOptions
from backend.errors import DataError


def test_how_a_file_is_read_as_options_and_as_words() -> None:
    assert Reading().options() == ReadOptions()
    reading = Reading("cp1252", ";", "Sheet 2", whole_file=True)
    assert reading.options() == ReadOptions("cp1252", ";", whole_file=True, sheet="Sheet 2")
    assert reading.words() == [
        "--encoding",
        "cp1252",
        "--delimiter",
        ";",
        "--sheet",
        "Sheet 2",
        "--whole-file",
    ]
    assert column_words({"prompt": "a b"}) == ["--columns.prompt", "a b"]
    assert column_words(None) == []


def test_an_encoding_that_is_not_known_is_refused() -> None:
    with pytest.raises(DataError, match="no-such-encoding"):
        Reading(encoding="no-such-encoding").options()
