"""The rows of a run, both sides: backend/data/dataset.py."""

from __future__ import annotations

from pathlib import Path

from backend import data_pipeline
from backend.run.config import DataConfig
from tests.runs import write_rows


class TestTrainedQuestions:
    def test_a_split_of_ours_has_none(self, tmp_path: Path) -> None:
        data = DataConfig(train=str(write_rows(tmp_path / "rows.jsonl")), validation=0.3)
        dataset = data_pipeline.load(data, seed=1)
        assert dataset.validation
        assert dataset.trained_questions() == []

    def test_a_file_may_have_some(self, tmp_path: Path) -> None:
        train = write_rows(tmp_path / "a.jsonl", [{"prompt": "food pork", "completion": "meat"}])
        asked = [{"prompt": "food leek", "completion": "x"}, {"prompt": "Food  pork?", "completion": "x"}]
        held_out = write_rows(tmp_path / "b.jsonl", asked)
        dataset = data_pipeline.load(DataConfig(train=str(train), validation=str(held_out)), seed=1)
        assert dataset.trained_questions() == ["b.jsonl:2"]
