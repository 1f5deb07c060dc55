"""Distillation: its loss and gradient are those of explicit log-softmaxes over padded passes, and of torch's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from backend.core.encoding.examples import Example
from backend.core.encoding.teacher import Provenance, Teacher, write_teacher
from backend.core.lanes import Lanes
from backend.run.config import TuningConfig
from backend.training.batching import Packing
from backend.training.distillation import Distillation, TeacherLoss
from backend.training.forward import ForwardPass, choose_forward
from backend.training.gradients import StepGradients, step_gradients
from backend.training.loop import TrainState
from backend.training.loss import linear_loss, logit_loss
from backend.training.teaching import read_rows
from tests.backend.core.rows import FULL, LORA, PLAN, lively_model, no_total, random_rows, shake, start
from tests.tiny import tiny_tokenizer

ROWS = random_rows([9, 14, 11, 17, 8], shared=4, vocab=400)
ABOUT = Provenance("teacher", "f", "t", "c", 0, 1.0, "rows.jsonl", "s", 64)
VOCABULARY = 400


def _taught(
    folder: Path, forward: ForwardPass, *, k: int, temperature: float = 1.0, rows: Sequence[Example] = ROWS
) -> Teacher:
    """What the model in ``forward`` says of the rows, from its file."""
    path = folder / f"{k}.safetensors"
    said = read_rows(forward, rows, tiny_tokenizer(), PLAN, k=k, temperature=temperature)
    write_teacher(path, said, ABOUT.__class__(**{**vars(ABOUT), "k": k, "temperature": temperature}))
    return Teacher(path)


def _logits(model: nn.Module, rows: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """(logits [N, V], labels [N]) at the trained tokens, by one padded pass as everybody computes them."""
    width = max(len(row.input_ids) for row in rows)
    ids, mask, trained = (torch.zeros(len(rows), width, dtype=torch.int64) for _ in range(3))
    for line, row in enumerate(rows):
        length = len(row.input_ids)
        ids[line, :length], mask[line, :length] = torch.tensor(row.input_ids), 1
        trained[line, :length] = torch.tensor(row.trained)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    chosen = trained[:, 1:].bool()
    return logits[chosen], ids[:, 1:][chosen]


def _plain_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, k: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """(mean divergence, mean cross-entropy): k classes of the teacher's likeliest tokens and one of the others."""
    p, q = (logits.div(temperature).softmax(-1) for logits in (teacher, student))
    likeliest = p.topk(k).indices
    others = torch.ones_like(p).scatter(1, likeliest, 0.0)
    p, q = (
        torch.cat([each.gather(1, likeliest), (each * others).sum(-1, keepdim=True)], 1) for each in (p, q)
    )
    terms = torch.where(p > 0, p * (p.clamp_min(1e-30).log() - q.clamp_min(1e-30).log()), 0.0)
    nll = -log_softmax(student, -1).gather(1, labels[:, None]).mean()
    return terms.sum(-1).mean() * temperature**2, nll


def _step(state: TrainState, teacher: Teacher, budget: int, kd: float, ce: float) -> StepGradients:
    objective = Distillation(teacher, kd_alpha=kd, kd_ce_alpha=ce)
    with Lanes(2) as pool:
        return step_gradients(
            state.forward, list(state.parameters.values()), Packing(budget)(ROWS), PLAN, pool,
            objective=objective, total=no_total, seed=0, step=1,
        )  # fmt: skip


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize(("k", "temperature"), [(1, 1.0), (8, 1.0), (8, 2.0), (VOCABULARY, 1.5)])
@pytest.mark.parametrize("budget", [20, 10_000])
def test_loss_and_gradient_are_those_of_padded_passes_beside_the_teacher(
    tuning: TuningConfig, k: int, temperature: float, budget: int, tmp_path: Path
) -> None:
    teaching = lively_model(vocab_size=VOCABULARY, seed=3)
    teacher = _taught(
        tmp_path, choose_forward(teaching, longest_row=64, plan=PLAN), k=k, temperature=temperature
    )
    teaching.set_attn_implementation("sdpa")
    with torch.no_grad():
        wished, labels = _logits(teaching, ROWS)
    state = start(lively_model(vocab_size=VOCABULARY), tuning)
    shake(state)

    found = _step(state, teacher, budget, 0.7, 0.4)
    state.forward.causal.set_attn_implementation("sdpa")
    divergence, nll = _plain_loss(_logits(state.forward.model, ROWS)[0], wished, labels, k, temperature)
    loss = 0.7 * divergence + 0.4 * nll
    wanted = torch.autograd.grad(
        loss, list(state.parameters.values()), allow_unused=True, materialize_grads=True
    )

    assert found.loss == pytest.approx(loss.item(), rel=3e-5)
    assert found.means["kd_loss"][0] / found.means["kd_loss"][1] == pytest.approx(divergence.item(), rel=3e-5)
    assert found.means["nll_loss"][0] / found.means["nll_loss"][1] == pytest.approx(nll.item(), rel=3e-5)
    distance = sum(float((a - b).square().sum()) for a, b in zip(found.gradients, wanted, strict=True)) ** 0.5
    assert distance <= 3e-5 * sum(float(each.square().sum()) for each in wanted) ** 0.5


def _loss(logits: Tensor, teacher: Tensor, k: int) -> TeacherLoss:
    likeliest, ids = teacher.log_softmax(-1).topk(k)
    others = teacher.log_softmax(-1).scatter(1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    labels = torch.zeros(len(logits), dtype=torch.int64)
    return TeacherLoss(labels, ids, torch.cat([likeliest, others], 1), 1.0, 1.0, 0.0)


def test_with_the_whole_vocabulary_it_is_torchs_full_divergence() -> None:
    student, teacher = torch.randn(6, 30, requires_grad=True), torch.randn(6, 30)
    ours = logit_loss(student, _loss(student, teacher, 30))
    theirs = kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="sum", log_target=True)

    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    torch.testing.assert_close(*(torch.autograd.grad(each, student)[0] for each in (ours, theirs)))


@pytest.mark.parametrize("k", [1, 5, 30])
def test_a_student_that_is_its_teacher_learns_nothing(k: int) -> None:
    logits = (torch.randn(6, 30) * 20).requires_grad_()  # so sure that the others nearly vanish
    loss = logit_loss(logits, _loss(logits, logits.detach(), k))

    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    assert float(torch.autograd.grad(loss, logits)[0].abs().max()) < 1e-5


def test_a_student_far_surer_than_its_teacher_still_has_a_finite_gradient() -> None:
    student = torch.zeros(1, 30).scatter(1, torch.tensor([[0]]), 500.0).requires_grad_()
    loss = logit_loss(student, _loss(student, torch.zeros(1, 30), 2))

    assert torch.isfinite(loss)
    assert bool(torch.isfinite(torch.autograd.grad(loss, student)[0]).all())


def test_a_trained_head_has_the_gradient_of_whole_logits() -> None:
    hidden, weight = torch.randn(150, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    teacher = torch.randn(150, 30)
    ours = linear_loss(hidden, weight, _loss(teacher, teacher, 4))
    theirs = logit_loss(hidden @ weight.T, _loss(teacher, teacher, 4))

    torch.testing.assert_close(
        torch.autograd.grad(ours, [hidden, weight]),
        torch.autograd.grad(theirs, [hidden, weight]),
        rtol=1e-4,
        atol=1e-4,
    )
