"""The panel: backend/export/panel.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from backend.data.records import Row
from backend.data_pipeline import load
from backend.errors import DataError, ExportError
from backend.export import panel as panel_module
from backend.export.panel import (
    Answer,
    LongRow,
    Panel,
    PanelRow,
    answer,
    exact_match,
    length_where_it_changes,
    read_panel,
)
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


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FACTORS = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 256}


@pytest.mark.parametrize(
    ("family", "settings", "length"),
    [
        ("llama", {}, None),
        ("llama", {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 64}}, 64),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, 256),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, None),
        (
            "phi3",
            {"original_max_position_embeddings": 32, "rope_parameters": FACTORS | {"type": "longrope"}},
            32,
        ),
        ("mistral", {"sliding_window": 16}, 16),
        ("mistral", {"sliding_window": None}, None),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": False}, None),
        ("gemma3_text", {"sliding_window": 16, "num_hidden_layers": 2}, 16),
    ],
)
def test_where_a_model_changes_with_the_length_is_known(
    family: str, settings: dict[str, Any], length: int | None
) -> None:
    rope = settings.get("rope_parameters", {})
    theta = {"rope_parameters": rope | {"rope_theta": 1e4}} if rope else {}
    config = AutoConfig.for_model(family, **(SIZES | settings | theta))
    assert length_where_it_changes(config) == length


def test_a_row_is_longer_than_where_the_model_changes(tmp_path: Path) -> None:
    rope = LLAMA3 | {"rope_theta": 1e4, "original_max_position_embeddings": 64}
    trained = load_trained(finished(tmp_path, rope_parameters=rope))
    row = read_panel(trained.config, trained.tokenizer, trained.model, rows=2).long
    assert row is not None
    assert (row.beyond, len(row.prompt_ids), len(row.forced)) == (64, 80, 8)
    assert row.logprobs is not None
    assert row.logprobs.shape == (8, trained.model.config.vocab_size)


def test_a_row_that_would_take_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rope = LLAMA3 | {"rope_theta": 1e4, "original_max_position_embeddings": 64}
    trained = load_trained(finished(tmp_path, rope_parameters=rope))
    monkeypatch.setattr(panel_module, "_LONG_ROW_PRODUCTS", 1000)
    row = read_panel(trained.config, trained.tokenizer, trained.model, rows=2).long
    assert row == LongRow(64)


def test_a_model_that_never_changes_has_no_long_row(llama: Asked) -> None:
    assert llama.panel.long is None


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


@pytest.mark.parametrize(
    "row",
    [
        Row("r:1", input_ids=(5, 6), labels=(5, 6)),
        Row("r:1", segments=(("Q: x A: ", False), ("y", True))),
        Row("r:1", messages=({"role": "assistant", "content": "Hello."},)),
        Row("r:1", text=""),
    ],
    ids=["tokens", "segments", "an answer alone", "an empty text"],
)
def test_what_is_asked_is_what_the_row_asks_and_never_made_up(llama: Asked, row: Row) -> None:
    assert panel_module._panel_row(row, llama.trained.tokenizer) is None


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
