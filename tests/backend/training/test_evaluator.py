"""Held-out rows: which of them are asked, which scored, and what is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend import data_pipeline
from backend.core.device import plan_compute
from backend.core.model_loader import load_base
from backend.core.tokenizer import load_tokenizer
from backend.errors import ModelError
from backend.inference import decode_proof
from backend.run.config import RunConfig, parse_config
from backend.run.reports import Progress
from backend.training.evaluation import HeldOut
from backend.training.evaluator import Evaluator, held_out
from backend.training.forward import choose_forward
from backend.training.loop import TrainState
from backend.training.tuning import make_trainable
from tests.runs import settings, write_rows

SAME = {"evaluation": {"sample_rows": 2, "score_rows": 3, "max_new_tokens": 4}}


def rows(*answers: str) -> list[dict[str, str]]:
    return [{"prompt": f"question {number}", "completion": answer} for number, answer in enumerate(answers)]


def configured(tiny_folder: Path, folder: Path, validation: Path | float) -> RunConfig:
    raw = settings(tiny_folder, write_rows(folder / "train.jsonl", rows("one", "two", "three")), SAME)
    raw["data"]["validation"] = validation if isinstance(validation, float) else str(validation)
    return parse_config(raw)


def test_the_panel_is_spread_and_only_so_many_rows_are_scored(tiny_folder: Path, tmp_path: Path) -> None:
    config = configured(tiny_folder, tmp_path, write_rows(tmp_path / "held.jsonl", rows(*"abcde")))
    found = held_out(data_pipeline.load(config.data, seed=0), load_tokenizer(tiny_folder), config)
    assert len(found.examples) == 5
    assert [question.row.rpartition(":")[2] for question in found.panel] == ["1", "3"]
    assert [question.expected for question in found.scored] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("answer", "data"),
    [("9Z" * 20, {}), ("9Z" * 150, {"max_length": 60, "truncation": "cut"})],
    ids=["in tokens", "before it was cut"],
)
def test_long_answers_are_not_scored(
    tiny_folder: Path, tmp_path: Path, answer: str, data: dict[str, object]
) -> None:
    held = write_rows(tmp_path / "held.jsonl", rows("yes", answer))
    config = configured(tiny_folder, tmp_path, held)
    config = config.model_copy(update={"data": config.data.model_copy(update=data)})
    found = held_out(data_pipeline.load(config.data, seed=0), load_tokenizer(tiny_folder), config)
    assert (len(found.panel), list(found.scored)) == (2, [])


def test_a_row_that_is_left_out_of_the_loss_is_not_asked(tiny_folder: Path, tmp_path: Path) -> None:
    held = write_rows(tmp_path / "held.jsonl", [*rows("yes"), {"prompt": "q", "completion": "9Z" * 150}])
    config = configured(tiny_folder, tmp_path, held)
    cut = config.data.model_copy(update={"max_length": 60, "truncation": "drop"})
    config = config.model_copy(update={"data": cut})
    found = held_out(data_pipeline.load(config.data, seed=0), load_tokenizer(tiny_folder), config)
    assert [example.row.rpartition(":")[2] for example in found.examples] == ["1"]
    assert [question.row.rpartition(":")[2] for question in found.panel] == ["1"]
    assert [question.row.rpartition(":")[2] for question in found.scored] == ["1"]


def test_nothing_is_held_out(tiny_folder: Path, tmp_path: Path) -> None:
    config = configured(tiny_folder, tmp_path, 0.0)
    found = held_out(data_pipeline.load(config.data, seed=0), load_tokenizer(tiny_folder), config)
    assert not found.examples


@pytest.mark.parametrize(("score", "scored"), [(False, 0), (True, 3)])
def test_a_report_and_what_a_watcher_sees(
    tiny_folder: Path, tmp_path: Path, score: bool, scored: int
) -> None:
    config = configured(tiny_folder, tmp_path, write_rows(tmp_path / "held.jsonl", rows(*"abcde")))
    tokenizer, plan = load_tokenizer(tiny_folder), plan_compute("float32")
    model = make_trainable(load_base(tiny_folder), config.tuning, seed=0)
    state = TrainState.start(choose_forward(model, longest_row=64), config.training)
    held = held_out(data_pipeline.load(config.data, seed=0), tokenizer, config)
    seen: list[Progress] = []
    assess = Evaluator(config, plan, state, tokenizer, held, seen.append)
    report = assess(7, 0.5, score=score)
    assert assess.possible
    assert (report.step, report.epoch, report.rows, report.scored_rows) == (7, 0.5, 5, scored)
    assert report.loss > 0
    assert len(report.samples) == 2
    assert seen == [Progress("evaluating"), Progress("training", report)]


def test_a_model_that_could_not_be_asked_is_refused_before_it_is_trained(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tiny_folder, tmp_path, write_rows(tmp_path / "held.jsonl", rows(*"ab")))
    tokenizer, plan = load_tokenizer(tiny_folder), plan_compute("float32")
    model = make_trainable(load_base(tiny_folder), config.tuning, seed=0)
    state = TrainState.start(choose_forward(model, longest_row=64), config.training)
    held = held_out(data_pipeline.load(config.data, seed=0), tokenizer, config)
    monkeypatch.setattr(decode_proof, "_is_right", lambda *_: False)

    Evaluator(config, plan, state, tokenizer, HeldOut(held.examples), lambda _: None)  # nothing is asked
    with pytest.raises(ModelError) as caught:
        Evaluator(config, plan, state, tokenizer, held, lambda _: None)

    assert caught.value.code == "cannot-generate"
