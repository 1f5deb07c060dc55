"""The held-out numbers are those of a plain computation, and looking at a model leaves it as it was."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from backend.core.encoding.examples import Example, Question
from backend.inference.decoding import Decoding
from backend.run.config import TuningConfig
from backend.run.reports import EvalReport
from backend.training import evaluation
from backend.training.evaluation import HeldOut, answers, evaluate, held_out_loss
from backend.training.forward import ForwardPass
from backend.training.loop import TrainState
from tests.backend.core.rows import (
    FULL,
    LORA,
    PLAN,
    lively_model,
    random_rows,
    same_bits,
    shake,
    start,
    weights,
)

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
        decode=_decode,
        step=12,
        epoch=1.5,
    )


@pytest.mark.parametrize("budget", [8, 40, 1000])
@pytest.mark.parametrize("packed", [True, False])
def test_the_held_out_loss_is_the_plain_mean_over_trained_tokens(budget: int, packed: bool) -> None:
    state = _state()
    state.forward.causal.set_attn_implementation({True: "tunesmith_packed", False: "sdpa"}[packed])

    loss, tokens = held_out_loss(ForwardPass(state.forward.model, packed), ROWS, PLAN, budget=budget)

    assert (loss, tokens) == (
        pytest.approx(_plain_loss(ROWS)[0], rel=1e-5),
        _plain_loss(ROWS)[1],
    )


def test_many_rows_are_evaluated_a_chunk_at_a_time(
    state: TrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = held_out_loss(state.forward, ROWS, PLAN, budget=100)
    monkeypatch.setattr(evaluation, "ROWS_AT_ONCE", 3)

    chunked = held_out_loss(state.forward, ROWS, PLAN, budget=100)

    assert chunked == (pytest.approx(whole[0], rel=1e-6), whole[1])


def test_the_number_of_lanes_at_work_changes_no_bit(state: TrainState) -> None:
    one = held_out_loss(state.forward, ROWS, replace(PLAN, lanes=1), budget=16)

    assert held_out_loss(state.forward, ROWS, PLAN, budget=16) == one


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
        held_out_loss(state.forward, ROWS, PLAN, budget=40)

    assert all(part.training for part in state.forward.model.modules())


@pytest.mark.parametrize(
    "tuning", [TuningConfig(lora_r=4, lora_dropout=0.5), FULL], ids=["LoRA dropout", "no dropout"]
)
def test_dropout_is_out_of_the_way(tuning: TuningConfig) -> None:
    state = _state(tuning)

    losses = {held_out_loss(state.forward, ROWS, PLAN, budget=40) for _ in range(2)}

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

    assert (report.loss, report.trained_tokens) == held_out_loss(state.forward, ROWS, PLAN, budget=40)
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
