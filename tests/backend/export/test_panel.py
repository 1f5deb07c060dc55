"""The panel: backend/export/panel.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backend.data_pipeline import load
from backend.errors import DataError, ExportError
from backend.export.panel import Answer, Panel, PanelRow, answer, exact_match, read_panel
from backend.export.trained import load_trained
from tests.backend.export.conftest import Asked
from tests.backend.export.results import finished


def test_held_out_rows_are_spread_evenly(llama: Asked) -> None:
    config = llama.trained.config
    places = [row.place for row in load(config.data, seed=config.seed).validation]
    panel = read_panel(config, llama.trained.tokenizer, llama.trained.model, rows=2)
    every = len(places) // 2
    assert [row.place for row in panel.rows] == [places[0], places[every]]
    assert panel.note == ""


def test_usual_shapes_of_conversation_come_with_it(llama: Asked) -> None:
    roles = [[message["role"] for message in messages] for messages, _ in llama.panel.shapes]
    assert roles == [
        ["user"],
        ["system", "user"],
        ["user", "assistant", "user"],
        ["system", "user", "assistant", "user"],
    ]
    assert len({tuple(ids) for _, ids in llama.panel.shapes}) == 4


def test_shapes_that_the_template_refuses_are_left_out(tmp_path: Path) -> None:
    trained = load_trained(finished(tmp_path, family="mistral"))
    panel = read_panel(trained.config, trained.tokenizer, trained.model, rows=2)
    assert len(panel.shapes) == 2


def test_without_held_out_rows_it_says_so(llama: Asked) -> None:
    config = llama.trained.config
    data = config.data.model_copy(update={"validation": 0.0})
    panel = read_panel(
        config.model_copy(update={"data": data}), llama.trained.tokenizer, llama.trained.model, rows=2
    )
    assert "was trained on" in panel.note


def test_rows_that_changed_are_noted(llama: Asked) -> None:
    config = llama.trained.config
    panel = read_panel(
        config,
        llama.trained.tokenizer,
        llama.trained.model,
        rows=2,
        fingerprints={config.data.train: "0" * 64},
    )
    assert panel.note == "rows.jsonl has changed since the training."


def test_rows_that_ask_nothing_make_way_for_others(tmp_path: Path) -> None:
    trained = load_trained(finished(tmp_path))
    rows = tmp_path / "rows.jsonl"
    longest = {"prompt": "food " * 600, "completion": "meat"}
    known = [{"prompt": f"food {number}", "completion": "meat"} for number in range(3)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in [longest, *known]))
    config = trained.config.model_copy(
        update={"data": trained.config.data.model_copy(update={"validation": 0.0})}
    )
    panel = read_panel(config, trained.tokenizer, trained.model, rows=2)
    assert [row.place for row in panel.rows] == ["rows.jsonl:3", "rows.jsonl:2"]


def test_a_model_without_a_template_continues_text(tmp_path: Path) -> None:
    trained = load_trained(finished(tmp_path, family="base"))
    panel = read_panel(trained.config, trained.tokenizer, trained.model, rows=2)
    assert (panel.rows[0].messages, panel.shapes) == (None, [])
    assert trained.tokenizer.decode(panel.rows[0].prompt_ids) == panel.rows[0].text


def test_rows_that_are_gone_are_an_error(llama: Asked) -> None:
    config = llama.trained.config
    data = config.data.model_copy(update={"train": "gone.jsonl"})
    with pytest.raises(DataError):
        read_panel(
            config.model_copy(update={"data": data}), llama.trained.tokenizer, llama.trained.model, rows=2
        )


def test_rows_that_do_not_fit_are_an_error(llama: Asked) -> None:
    config = llama.trained.config
    evaluation = config.evaluation.model_copy(update={"max_new_tokens": 4096})
    with pytest.raises(ExportError) as caught:
        read_panel(
            config.model_copy(update={"evaluation": evaluation}),
            llama.trained.tokenizer,
            llama.trained.model,
            rows=2,
        )
    assert caught.value.code == "no-panel"


def test_answers_end_with_their_end_token(learned: Asked) -> None:
    assert all(each.ended and each.ids[-1] in learned.trained.end_ids for each in learned.answers)
    tokenizer = learned.trained.tokenizer
    assert [each.text for each in learned.answers] == [
        tokenizer.decode(each.ids, skip_special_tokens=True) for each in learned.answers
    ]


def test_the_probabilities_are_those_the_answer_was_chosen_by(learned: Asked) -> None:
    for each in learned.answers:
        assert each.logprobs is not None
        assert each.logprobs.argmax(-1).tolist() == each.ids[: len(each.logprobs)]
        assert torch.allclose(each.logprobs.exp().sum(-1), torch.ones(len(each.logprobs)), atol=1e-5)


def test_an_answer_that_does_not_end_is_cut_where_it_must(llama: Asked) -> None:
    short = replace(llama.panel, max_new_tokens=2)
    found = answer(llama.trained.model, llama.trained.tokenizer, short, set())
    assert [(len(each.ids), each.ended) for each in found] == [(2, False)] * len(short.rows)


@pytest.mark.parametrize(
    ("expected", "share"), [(["a", " b\n"], 1.0), (["a", "x"], 0.5), (["", "x"], 0.0), (["", ""], None)]
)
def test_exact_match(expected: list[str], share: float | None) -> None:
    rows = [PanelRow("p", None, "t", None, each, [1]) for each in expected]
    assert exact_match(Panel(rows, [], 4), ["a ", "b"]) == share


def test_a_repr_stays_readable() -> None:
    assert "logprobs" not in repr(Answer([1], True, "x", torch.zeros(1, 9)))
