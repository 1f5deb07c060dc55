"""The one door to data: backend/data_pipeline.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.config import DataConfig
from backend.data_pipeline import load
from backend.errors import DataError


def places(rows_file: Path, **changes: object) -> tuple[list[str], list[str]]:
    data = DataConfig.model_validate({"train": str(rows_file), **changes})
    dataset = load(data, seed=42)
    return [row.place for row in dataset.train], [row.place for row in dataset.validation]


class TestSkippedRows:
    def test_they_are_left_out_and_nothing_else_moves(self, rows_file: Path) -> None:
        train, held_out = places(rows_file)
        skipped = [train[0], train[3]]
        assert places(rows_file, skip_rows=skipped) == ([train[1], train[2], *train[4:]], held_out)

    @pytest.mark.parametrize("place", ["foods.jsonl:999", "other.jsonl:1", "1", ""])
    def test_an_unknown_place_is_named(self, rows_file: Path, place: str) -> None:
        with pytest.raises(DataError, match=f"data.skip_rows names {place}, which") as caught:
            places(rows_file, skip_rows=[place])
        assert caught.value.code == "unknown-place"

    def test_a_held_out_row_is_no_training_row(self, rows_file: Path) -> None:
        _, held_out = places(rows_file)
        with pytest.raises(DataError, match="held-out rows are not trained"):
            places(rows_file, skip_rows=held_out[:1])
