"""transformers and peft as readers: backend/export/read_with_transformers.py, in their own process first."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.export.comparison import divergence
from backend.export.forms import write_form
from backend.export.readers import UnreadableError, read_back
from tests.backend.export.conftest import Asked


@pytest.mark.slow
def test_an_adapter_is_laid_over_its_base(learned: Asked, tmp_path: Path) -> None:
    folder, _ = write_form(learned.fresh(), "adapter", "float32", tmp_path, max_shard_size="5GB")
    reading = read_back("transformers", folder, learned.panel, learned.answers, base=learned.trained.base)
    assert "peft" in reading.reader
    assert [row["prompt_ids"] for row in reading.rows] == [row.prompt_ids for row in learned.panel.rows]
    assert [row["ids"] for row in reading.rows] == [each.ids for each in learned.answers]
    for each, row in zip(learned.answers, reading.rows, strict=True):
        assert each.logprobs is not None
        assert max(divergence(*pair) for pair in zip(each.logprobs, row["tops"], strict=True)) < 1e-6


@pytest.mark.usefixtures("read_here")
def test_an_adapter_without_its_base_is_unreadable(learned: Asked, tmp_path: Path) -> None:
    folder, _ = write_form(learned.fresh(), "adapter", "float32", tmp_path, max_shard_size="5GB")
    with pytest.raises(UnreadableError):
        read_back("transformers", folder, learned.panel, learned.answers)
