"""How often the better answer is preferred: backend/training/pair_accuracy.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from backend.data.load import load_rows
from backend.errors import DataError
from backend.inferencer import Inferencer
from backend.run.config import DataConfig
from backend.training.pair_accuracy import pair_logprobs
from tests.runs import learner_folder, write_rows

PAIRS = [
    {"prompt": "food ham", "chosen": "meat", "rejected": "fruit and more"},
    {"prompt": "food pear", "chosen": "fruit", "rejected": "meat"},
]


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learner_folder(tmp_path_factory.mktemp("learner"))


def test_they_are_those_of_the_model_by_itself(learner: Path, tmp_path: Path) -> None:
    rows = load_rows(str(write_rows(tmp_path / "pairs.jsonl", PAIRS))).rows
    with Inferencer(learner) as model:
        found = pair_logprobs(model, rows, DataConfig(train="pairs.jsonl"))
        model.model.set_attn_implementation("sdpa")
        for pair, both in zip(PAIRS, found, strict=True):
            asked = model.render(pair["prompt"])
            for answer, logprob in zip((pair["chosen"], pair["rejected"]), both, strict=True):
                ids = [*asked, *model.tokenizer(f"{answer}<|im_end|>\n")["input_ids"][:]]
                ids = ids[: len(ids) - len(model.tokenizer("\n")["input_ids"])]
                with torch.no_grad():
                    logits = model.model(input_ids=torch.tensor([ids])).logits[0, len(asked) - 1 : -1].float()
                wanted = -float(cross_entropy(logits, torch.tensor(ids[len(asked) :]), reduction="sum"))
                assert logprob == pytest.approx(wanted, rel=1e-4)


def test_pairs_that_are_too_long_are_named(learner: Path, tmp_path: Path) -> None:
    rows = load_rows(str(write_rows(tmp_path / "pairs.jsonl", PAIRS))).rows
    with Inferencer(learner) as model, pytest.raises(DataError, match="longer than 8 tokens"):
        pair_logprobs(model, rows, DataConfig(train="pairs.jsonl", max_length=8))
