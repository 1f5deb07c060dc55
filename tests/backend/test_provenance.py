"""What a run was trained on: backend/provenance.py; the trainer's own tests see it in a run."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from backend import data_pipeline
from backend.config import DataConfig
from backend.core.device import plan_compute
from backend.core.tokenizer import load_tokenizer
from backend.errors import RunError
from backend.provenance import NAMED_ROWS, provenance, require_same_inputs
from backend.run_environment import Facts
from tests.runs import ROWS, write_rows

FACTS = Facts({"a.jsonl": "1" * 64, "b.jsonl": "2" * 64}, "3" * 64)


def test_it_says_versions_plan_facts_and_rows(tiny_folder: Path, tmp_path: Path) -> None:
    wordy = {"prompt": "word " * 100, "completion": "x"}
    data = write_rows(tmp_path / "rows.jsonl", [*ROWS, *[wordy] * (NAMED_ROWS + 1)])
    config = DataConfig(train=str(data), validation=0, max_length=60, truncation="drop")
    dataset = data_pipeline.load(config, seed=1)
    rows = data_pipeline.encode(dataset.train, load_tokenizer(tiny_folder), config)
    plan = plan_compute("float32")

    known = provenance(plan, FACTS, dataset, rows, 1.23456)

    assert known.plan == plan
    assert known.facts == FACTS
    assert known.versions["torch"] == version("torch")
    assert known.data.train_rows == len(ROWS)
    assert list(known.data.dropped_rows) == rows.dropped[:NAMED_ROWS]
    assert len(rows.dropped) == NAMED_ROWS + 1
    assert known.data.trained_questions == ()
    assert 0 < (known.data.trained_tokens or 0) < (known.data.tokens or 0)


@pytest.mark.parametrize("before", [None, FACTS])
def test_the_first_attempt_and_the_same_inputs_go_on(before: Facts | None) -> None:
    require_same_inputs(before, FACTS)
    assert FACTS.model == "3" * 64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "4" * 64}, "the model (333333333333 → 444444444444) changed"),
        (
            {"data": {"a.jsonl": "1" * 64, "b.jsonl": "5" * 64}},
            "b.jsonl (222222222222 → 555555555555) changed",
        ),
        ({"data": {"a.jsonl": "1" * 64}}, "b.jsonl (222222222222 → None) changed"),
        (
            {"data": {"a.jsonl": "6" * 64, "b.jsonl": "2" * 64}, "model": "4" * 64},
            "666666666666) and the model",
        ),
    ],
)
def test_others_are_refused_with_both_hashes(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError) as caught:
        require_same_inputs(FACTS, replace(FACTS, **change))
    assert caught.value.code == "inputs-changed"
    assert said in caught.value.message
    assert "Put the original back" in caught.value.remedy
