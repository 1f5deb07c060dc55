"""A teacher reads rows: backend/training/teaching.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backend.core.encoding.teacher import Teacher
from backend.data_pipeline import load
from backend.errors import DataError
from backend.run.config import DataConfig
from backend.training.forward import choose_forward
from backend.training.teaching import Reader, read_rows
from tests.backend.core.rows import PLAN, lively_model, random_rows
from tests.runs import write_rows
from tests.tiny import tiny_model_folder, tiny_tokenizer

ROWS = random_rows([9, 14, 9, 11], shared=4, vocab=400)


def test_the_likeliest_tokens_are_those_of_the_model_row_by_row() -> None:
    model = lively_model(vocab_size=420)  # rows that are no tokens are among the others
    forward = choose_forward(model, longest_row=64, plan=PLAN)
    done: list[int] = []
    read = {example.row: said for example, said in read_rows(
        forward, ROWS, tiny_tokenizer(), PLAN, k=3, temperature=2.0, budget=20, note=done.append
    )}  # fmt: skip
    model.set_attn_implementation("sdpa")

    assert done == [4]
    for row in ROWS:
        ids = torch.tensor(row.input_ids)[None]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1] / 2.0
        wanted = logits.log_softmax(-1)[torch.tensor(row.trained[1:])]
        likeliest, names = wanted[:, :400].topk(3)
        said = read[row.row]
        assert said.ids.tolist() == names.tolist()
        torch.testing.assert_close(torch.from_numpy(said.logprobs[:, :3]), likeliest, rtol=1e-4, atol=1e-4)
        totals = torch.from_numpy(said.logprobs).exp().sum(-1)
        torch.testing.assert_close(totals, torch.ones(len(totals)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [0, 401])
def test_more_tokens_than_there_are_cannot_be_kept(k: int) -> None:
    forward = choose_forward(lively_model(vocab_size=420), longest_row=64, plan=PLAN)
    with pytest.raises(DataError, match="The teacher knows 400 tokens"):
        next(read_rows(forward, ROWS, tiny_tokenizer(), PLAN, k=k))


def test_a_template_of_the_student_renders_the_rows(tmp_path: Path) -> None:
    model = tiny_model_folder(tmp_path / "model", family="llama3")
    data = DataConfig(train=str(write_rows(tmp_path / "rows.jsonl")), validation=0)
    found = {}
    for template in (None, "chatml"):
        out = tmp_path / f"{template}.safetensors"
        with Reader(str(model), chat_template=template) as reader:
            reader.write(out, load(data, seed=0), data, k=2, temperature=1.0)
        found[template] = Teacher(out).provenance
    assert found[None].chat_template != found["chatml"].chat_template
    assert found[None].fingerprint == found["chatml"].fingerprint
