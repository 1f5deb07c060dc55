"""W14, W16, W17, W18: files are what they are, tokenizers are the models' own, figures mean what they say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from backend import trainer_main
from backend.core.tokenizer import encode_prompt, load_tokenizer
from backend.data.load import load_rows
from backend.run.reports import RunStatus
from tests.faults.conftest import MakeRun
from tests.tiny import Family, tiny_model_folder, tiny_tokenizer

CHAT = [{"role": "user", "content": "Bratwurst, pork"}, {"role": "assistant", "content": "Sausages"}]


@pytest.mark.parametrize(("name", "indent"), [("rows.json", None), ("rows.json", 2), ("rows.jsonl", 2)])
def test_w14_a_json_array_is_read_however_it_is_printed(
    tmp_path: Path, name: str, indent: int | None
) -> None:
    path = tmp_path / name
    path.write_text(json.dumps([{"messages": CHAT}, {"messages": CHAT}], indent=indent), encoding="utf-8")
    assert [list(row.messages) for row in load_rows(str(path)).rows] == [CHAT, CHAT]


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma"])
def test_w16_each_model_has_its_own_tokenizer(tmp_path: Path, family: Family) -> None:
    folder = tiny_model_folder(tmp_path / family, family=family)
    expected = tiny_tokenizer(family).apply_chat_template(CHAT[:1], add_generation_prompt=True)["input_ids"]
    assert encode_prompt(load_tokenizer(folder), CHAT[:1]) == expected


def test_w17_w18_epochs_are_epochs_and_tokens_are_tokens(make_run: MakeRun, tmp_path: Path) -> None:
    """Twenty-four rows, five a step, two epochs: ten steps in which each row came twice."""
    run = make_run(tmp_path, max_steps=-1, num_train_epochs=2, per_device_train_batch_size=5)
    assert trainer_main.run(run).status is RunStatus.FINISHED
    steps = [record for record in run.metrics().records if record["kind"] == "train"]
    seen = Counter(row for record in run.flight().records for row in record["rows"])
    assert [len(steps), steps[-1]["total_steps"], steps[-1]["train/epoch"]] == [10, 10, 2.0]
    assert set(seen.values()) == {2}
    assert len(seen) == 24
    tokens = [record["train/tokens_per_second"] * record["seconds"] for record in steps]
    assert sum(tokens) == pytest.approx(steps[-1]["train/tokens_seen"], rel=1e-2)
