"""The held-out numbers are those of a plain computation, and looking at a model leaves it as it was."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from backend import data_pipeline
from backend.core.device import ComputePlan, plan_compute
from backend.core.encoding.examples import Example, Question
from backend.core.model_loader import load_base
from backend.core.packed_attention import MicroBatch
from backend.core.tokenizer import load_tokenizer
from backend.errors import ModelError, TrainingError
from backend.inference import decode_proof, engines
from backend.inference.decoding import Decoding
from backend.run.config import RunConfig, TuningConfig
from backend.run.reports import EvalReport, Progress
from backend.run.settings import parse_config
from backend.training import evaluation
from backend.training.evaluation import (
    Evaluator,
    HeldOut,
    answers,
    evaluate,
    held_out,
    held_out_loss,
)
from backend.training.forward import ForwardPass, choose_forward
from backend.training.generation import prove_generation
from backend.training.loop import TrainState
from backend.training.tuning import make_trainable
from tests.backend.core.rows import (
    FULL,
    LORA,
    PLAN,
    Watched,
    lively_model,
    random_rows,
    same_bits,
    shake,
    start,
    weights,
)
from tests.runs import settings, write_rows

ROWS = random_rows([9, 14, 20, 7, 30, 12, 25, 18], shared=5)
STOP = frozenset({7})


def _state(tuning: TuningConfig = LORA, **overrides: object) -> TrainState:
    state = start(lively_model(**overrides), tuning)
    shake(state)
    return state


@pytest.fixture(scope="module")
def state() -> TrainState:
    torch.set_num_threads(1)
    return _state()


@cache
def _plain_model() -> torch.nn.Module:
    """The same weights again, on transformers' own attention, at rest."""
    state = _state()
    state.forward.causal.set_attn_implementation("sdpa")
    return state.forward.model.eval()


@torch.no_grad()
def _plain_loss(rows: Sequence[Example]) -> tuple[float, int]:
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor(row.input_ids)[None]
        at = torch.tensor(row.trained)[1:]
        losses = F.cross_entropy(_plain_model()(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        total, count = total + float(losses[at].sum()), count + int(at.sum())
    return total / count, count


@torch.no_grad()
def _plain_answer(prompt: Sequence[int], limit: int) -> list[int]:
    ids = list(prompt)
    for _ in range(limit):
        ids.append(int(_plain_model()(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in STOP:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


def _questions(count: int = 5, limit: int = 6) -> list[Question]:
    """Prompts of mixed lengths; the even ones expect what the model says, the others do not."""
    prompts = [tuple(row.input_ids[: 3 + place].tolist()) for place, row in enumerate(ROWS[:count])]
    said = [_decode(_plain_answer(prompt, limit)) for prompt in prompts]
    wished = [text if place % 2 == 0 else f"not {text}" for place, text in enumerate(said)]
    return [
        Question(f"row {n}", f"prompt {n}", p, w)
        for n, (p, w) in enumerate(zip(prompts, wished, strict=True))
    ]


def _decode(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def _evaluate(state: TrainState, held_out: HeldOut, *, limit: int = 6) -> EvalReport:
    return evaluate(
        state.forward,
        held_out,
        PLAN,
        budget=40,
        max_new_tokens=limit,
        stop_ids=STOP,
        to_text=_decode,
        step=12,
        epoch=1.5,
    )


def _loss(forward: ForwardPass, plan: ComputePlan, budget: int) -> tuple[float, int]:
    found = held_out_loss(forward, ROWS, plan, budget=budget)
    assert found.measured == {}
    return found.loss, found.trained_tokens


@pytest.mark.parametrize("budget", [8, 40, 1000])
@pytest.mark.parametrize("packed", [True, False])
def test_the_held_out_loss_is_the_plain_mean_over_trained_tokens(budget: int, packed: bool) -> None:
    state = _state()
    state.forward.causal.set_attn_implementation({True: "tunesmith_packed", False: "sdpa"}[packed])

    loss, tokens = _loss(ForwardPass(state.forward.model, packed), PLAN, budget)

    assert (loss, tokens) == (
        pytest.approx(_plain_loss(ROWS)[0], rel=1e-5),
        _plain_loss(ROWS)[1],
    )


def test_many_rows_are_evaluated_a_chunk_at_a_time(
    state: TrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _loss(state.forward, PLAN, 100)
    monkeypatch.setattr(evaluation, "ROWS_AT_ONCE", 3)

    chunked = _loss(state.forward, PLAN, 100)

    assert chunked == (pytest.approx(whole[0], rel=1e-6), whole[1])


def test_the_number_of_lanes_at_work_changes_no_bit(state: TrainState) -> None:
    one = _loss(state.forward, replace(PLAN, lanes=1), 16)

    assert _loss(state.forward, PLAN, 16) == one


@pytest.mark.parametrize("training", [True, False])
def test_looking_leaves_the_model_as_it_was(training: bool) -> None:
    state = _state()
    state.forward.model.train(training)
    before = weights(state)

    _evaluate(state, HeldOut(ROWS, _questions(2), _questions(2)))

    assert all(part.training is training for part in state.forward.model.modules())
    assert state.forward.causal.config._attn_implementation == "tunesmith_packed"
    assert same_bits(weights(state), before)
    assert all(part.grad is None for part in state.parameters.values())


def test_a_failure_while_looking_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    state = _state()
    head = state.forward.causal.lm_head.weight
    monkeypatch.setattr(head, "data", head.data[:100])

    with pytest.raises((RuntimeError, IndexError)):
        _loss(state.forward, PLAN, 40)

    assert all(part.training for part in state.forward.model.modules())


@pytest.mark.parametrize(
    "tuning", [TuningConfig(lora_r=4, lora_dropout=0.5), FULL], ids=["LoRA dropout", "no dropout"]
)
def test_dropout_is_out_of_the_way(tuning: TuningConfig) -> None:
    state = _state(tuning)

    losses = {_loss(state.forward, PLAN, 40) for _ in range(2)}

    assert len(losses) == 1


def test_answers_are_those_of_plain_greedy_decoding_in_order(
    state: TrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "ANSWERS_AT_ONCE", 2)
    questions = _questions()

    found = list(answers(state.forward, questions, PLAN, stop_ids=STOP, max_new_tokens=6))

    assert [question for question, _ in found] == questions
    assert [ids for _, ids in found] == [_plain_answer(q.prompt_ids, 6) for q in questions]


def test_answers_are_written_side_by_side_in_all_lanes(
    state: TrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = threading.Barrier(2)

    class Meeting(Decoding):
        def __init__(self, *given: Any, **named: Any) -> None:
            meeting.wait(10.0)
            super().__init__(*given, **named)

    questions = _questions(4)
    alone = list(answers(state.forward, questions, replace(PLAN, lanes=1), stop_ids=STOP, max_new_tokens=6))
    monkeypatch.setattr(evaluation, "ANSWERS_AT_ONCE", 2)
    monkeypatch.setattr(evaluation, "Decoding", Meeting)

    assert list(answers(state.forward, questions, PLAN, stop_ids=STOP, max_new_tokens=6)) == alone


def test_the_end_token_is_no_part_of_an_answer(state: TrainState) -> None:
    (question, *_) = _questions()
    whole = _plain_answer(question.prompt_ids, 6)

    ((_, cut),) = answers(state.forward, [question], PLAN, stop_ids={whole[3]}, max_new_tokens=6)

    assert cut == whole[: whole.index(whole[3])]


def test_an_answer_ends_at_its_limit(state: TrainState) -> None:
    (question, *_) = _questions()

    ((_, said),) = answers(state.forward, [question], PLAN, stop_ids=set(), max_new_tokens=3)

    assert said == _plain_answer(question.prompt_ids, 6)[:3]


@pytest.mark.parametrize("tuning", [LORA, FULL])
def test_the_engine_writes_what_the_model_says_after_each_change(
    tuning: TuningConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = _state(tuning)
    prove_generation(state.forward.model)

    def said() -> list[list[int]]:
        found = answers(state.forward, _questions(), PLAN, stop_ids=STOP, max_new_tokens=6)
        return [ids for _, ids in found]

    for _ in range(2):
        shake(state)
        by_engine = said()
        with monkeypatch.context() as patch:
            patch.setattr(engines, "_of_trained", {})
            assert said() == by_engine


def test_what_stands_for_no_token_is_never_said_in_an_evaluation(state: TrainState) -> None:
    (question, *_) = _questions()
    whole = _plain_answer(question.prompt_ids, 6)
    rows = state.forward.causal.get_input_embeddings().weight.shape[0]
    known = torch.ones(rows, dtype=torch.bool)
    known[whole] = False

    ((_, said),) = answers(state.forward, [question], PLAN, stop_ids=set(), max_new_tokens=6, known=known)

    assert len(said) == 6
    assert not set(whole) & set(said)


def test_no_question_has_no_answer(state: TrainState) -> None:
    assert list(answers(state.forward, [], PLAN, stop_ids=STOP, max_new_tokens=3)) == []


def test_a_report_holds_loss_score_and_samples(state: TrainState) -> None:
    questions = _questions()

    report = _evaluate(state, HeldOut(ROWS, panel=questions[:2], scored=questions))

    assert (report.loss, report.trained_tokens) == _loss(state.forward, PLAN, 40)
    assert (report.step, report.epoch, report.rows) == (12, 1.5, len(ROWS))
    assert (report.exact_match, report.scored_rows) == (3 / 5, 5)
    assert [sample.row for sample in report.samples] == ["row 0", "row 1"]
    assert [sample.prompt for sample in report.samples] == ["prompt 0", "prompt 1"]
    assert [sample.exact_match for sample in report.samples] == [True, False]
    assert report.samples[0].generated == questions[0].expected
    assert report.samples[1].expected == f"not {report.samples[1].generated}"
    assert report.seconds > 0


def test_without_questions_there_is_no_score_and_no_sample(state: TrainState) -> None:
    report = _evaluate(state, HeldOut(ROWS))

    assert (report.exact_match, report.scored_rows, report.samples) == (None, 0, ())


# --- which held-out rows are asked, which are scored, and what is reported

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


class TestTexts:
    TEXTS = ("one two three " * 30, "Ärger über naïve 東京 " * 8)

    def held(self, tiny_folder: Path, folder: Path, method: str = "cpt", **data: object) -> HeldOut:
        texts = write_rows(folder / "held.jsonl", [{"text": text} for text in self.TEXTS])
        config = configured(tiny_folder, folder, texts).model_dump()
        config["objective"]["method"] = method
        config["data"] |= {"train": str(texts), "max_length": 64} | data
        parsed = parse_config(config)
        return held_out(data_pipeline.load(parsed.data, seed=0), load_tokenizer(tiny_folder), parsed)

    def test_their_pieces_are_the_loss_and_their_beginnings_the_panel(
        self, tiny_folder: Path, tmp_path: Path
    ) -> None:
        found = self.held(tiny_folder, tmp_path)
        assert found.examples[-1].row.startswith("held.jsonl:2 (piece ")
        assert [question.row for question in found.panel] == ["held.jsonl:1", "held.jsonl:2"]
        assert list(found.scored) == []
        assert 0 < found.text_bytes < sum(len(text.encode()) for text in self.TEXTS)
        assert 10 < len(found.general) <= 50  # some are cut before their answer

    def test_general_texts_are_measured_in_cpt_only_unless_asked_for(
        self, tiny_folder: Path, tmp_path: Path
    ) -> None:
        found = self.held(tiny_folder, tmp_path, "sft", truncation="cut")
        assert (list(found.general), found.text_bytes) == ([], 0)
        config = configured(tiny_folder, tmp_path, tmp_path / "held.jsonl")
        assert not config.watches_forgetting
        asked = config.evaluation.model_copy(update={"forgetting_panel": True})
        assert config.model_copy(update={"evaluation": asked}).watches_forgetting

    def test_bits_per_byte_and_the_loss_on_general_texts_are_reported(self, state: TrainState) -> None:
        report = _evaluate(state, HeldOut(ROWS[:4], text_bytes=1000, general=ROWS[4:]))
        nats = report.loss * report.trained_tokens
        assert report.measured == {
            "bits_per_byte": pytest.approx(nats / math.log(2) / 1000),
            "forgetting_loss": held_out_loss(state.forward, ROWS[4:], PLAN, budget=40).loss,
        }
        assert _evaluate(state, HeldOut(ROWS[:4])).measured == {}


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
    monkeypatch.setattr(engines, "disagreement", lambda *_: 1e9)

    Evaluator(config, plan, state, tokenizer, HeldOut(held.examples), lambda _: None)  # nothing is asked
    with pytest.raises(ModelError) as caught:
        Evaluator(config, plan, state, tokenizer, held, lambda _: None)

    assert caught.value.code == "cannot-generate"


def test_where_memory_runs_out_the_held_out_loss_is_that_of_smaller_micro_batches() -> None:
    plain = ForwardPass(start(lively_model(), LORA).forward.model, packed=True)

    def look(batch: MicroBatch) -> None:
        if len(batch.input_ids) > 25:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    rows = random_rows([10] * 16)  # in four micro-batches of 40 tokens, unless the budget is smaller
    narrow = Watched(plain.model, packed=True, look=look)
    found = held_out_loss(narrow, rows, PLAN, budget=160)

    assert found == held_out_loss(plain, rows, PLAN, budget=20)


def test_a_held_out_row_that_does_not_fit_by_itself_is_one_sentence() -> None:
    def look(_: MicroBatch) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    narrow = Watched(start(lively_model(), LORA).forward.model, packed=True, look=look)
    with pytest.raises(TrainingError, match="Memory ran out while held-out rows were evaluated") as caught:
        held_out_loss(narrow, ROWS, PLAN, budget=160)
    assert caught.value.code == "out-of-memory"
