"""``tunesmith data paraphrase``: backend/commands/paraphrase.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from backend.commands.cli import main
from backend.data_pipeline import load
from backend.errors import InferenceError, TunesmithError
from backend.inferencer import Inferencer
from backend.run.config import AugmentationConfig, DataConfig
from tests.runs import write_rows

PAIRS = [{"prompt": f"Add {n} and 3.", "completion": str(n + 3)} for n in range(6)]
FAILED = InferenceError("too long", remedy="cut it", code="prompt-too-long")


def reword(_: Inferencer, prompts: Sequence[str], **__: Any) -> list[str | TunesmithError]:
    """Good wordings, but another number in the first row and an error in the last."""
    asked = [prompt.rpartition("\n")[2] for prompt in prompts]
    said: list[str | TunesmithError] = [text.replace("Add", "Sum up") for text in asked]
    return ["Sum up 7 and 3.", *said[1:-1], FAILED]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        Inferencer, "infer_batch", create_autospec(Inferencer.infer_batch, side_effect=reword)
    )
    return write_rows(tmp_path / "rows.jsonl", PAIRS)


def test_from_proposals_over_a_review_to_training_rows(
    source: Path, learner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    review = tmp_path / "review.jsonl"
    words = ["data", "paraphrase", str(source), "--model", str(learner), "--out", str(review)]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"rows": 6, "proposals": 4, "review": str(review)}
    proposals = [json.loads(line) for line in review.read_text(encoding="utf-8").splitlines()]
    assert proposals[0] == {
        "place": "rows.jsonl:2", "before": "Add 1 and 3.", "after": "Sum up 1 and 3.", "accepted": False,
    }  # fmt: skip
    proposals[1]["accepted"] = True
    write_rows(review, proposals)
    data = DataConfig(train=str(source), validation=0)
    rows = load(data, seed=1, augmentation=AugmentationConfig(paraphrases=str(review))).train
    assert [[turn["content"] for turn in row.messages] for row in rows[6:]] == [["Sum up 2 and 3.", "5"]]
    assert main(words) == 2
    assert "exists already, perhaps with decisions in it." in capsys.readouterr().err
    assert review.read_text(encoding="utf-8").count("true") == 1


def test_a_person_is_told_how_many_and_what_to_do_next(
    source: Path, learner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "review.jsonl"
    assert (
        main(["data", "paraphrase", str(source), "--model", str(learner), "--out", str(out), "--limit", "3"])
        == 0
    )
    said = capsys.readouterr().out
    assert said.startswith("1 of 3 prompts reworded")
    assert f"--augmentation.paraphrases {out}" in said
