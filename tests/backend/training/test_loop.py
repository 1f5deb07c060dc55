"""The loop learns what plain transformers and peft would, from the trained tokens alone, to the same bits twice."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor

from backend.core.device import ComputePlan, plan_compute
from backend.core.encoding.examples import Example
from backend.errors import TrainingError
from backend.run.config import TrainingConfig, TuningConfig
from backend.run.methods import default_learning_rate
from backend.run.reports import StepReport
from backend.run.schedule import learning_rate_factor
from backend.training.batching import epoch_order
from backend.training.forward import ForwardPass
from backend.training.loop import TrainState, depends_on_cores, train_steps
from backend.training.tuning import make_trainable
from tests.backend.core.rows import (
    FULL,
    LORA,
    PLAN,
    Watched,
    example,
    lively_model,
    random_rows,
    same_bits,
    start,
    weights,
)
from tests.tiny import tiny_model

ROWS = random_rows([9, 14, 20, 7, 30, 12, 25, 18], shared=5)
SHORT = TrainingConfig(max_steps=3, per_device_train_batch_size=4, learning_rate=1e-2)
DROPOUT = TuningConfig(lora_r=4, lora_dropout=0.3)
ONE_LANE = replace(PLAN, lanes=1)


def _train(
    state: TrainState,
    training: TrainingConfig = SHORT,
    *,
    rows: Sequence[Example] = ROWS,
    plan: ComputePlan = PLAN,
    seed: int = 0,
) -> list[StepReport]:
    return list(train_steps(state, rows, training, plan, seed=seed))


def _trained(
    tuning: TuningConfig = LORA,
    training: TrainingConfig = SHORT,
    *,
    plan: ComputePlan = PLAN,
    seed: int = 0,
) -> tuple[list[float], dict[str, Tensor]]:
    """(losses, weights and moments) after training the same fresh model."""
    state = start(lively_model(), tuning, training)
    return [report.loss for report in _train(state, training, plan=plan, seed=seed)], weights(state)


def _same(
    first: tuple[list[float], dict[str, Tensor]], second: tuple[list[float], dict[str, Tensor]]
) -> bool:
    return first[0] == second[0] and same_bits(first[1], second[1])


# --- what is learned ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", [LORA, FULL, DROPOUT], ids=["lora", "full", "dropout"])
def test_the_same_training_twice_gives_the_same_bits(tuning: TuningConfig) -> None:
    assert _same(_trained(tuning, plan=ONE_LANE), _trained(tuning, plan=ONE_LANE))


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_the_loss_falls(tuning: TuningConfig) -> None:
    training = TrainingConfig(max_steps=30, per_device_train_batch_size=4, learning_rate=1e-2)
    rows = [example([10, 11, 12, 100 + n, 200 + n, 300 + n], [0, 0, 0, 0, 1, 1], str(n)) for n in range(4)]

    losses = [report.loss for report in _train(start(lively_model(), tuning, training), training, rows=rows)]

    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(("tuning", "part"), [(LORA, ".lora_"), (FULL, "")], ids=["lora", "full"])
def test_what_the_method_trains_moves_and_nothing_else(tuning: TuningConfig, part: str) -> None:
    state = start(lively_model(), tuning)
    before = {name: value.detach().clone() for name, value in state.forward.model.named_parameters()}

    _train(state)

    after = dict(state.forward.model.named_parameters())
    assert {name for name in before if not torch.equal(after[name], before[name])} == {
        name for name in before if part in name
    }


def test_the_seed_decides_the_order_of_the_rows() -> None:
    reports = {seed: _train(start(lively_model()), seed=seed) for seed in (0, 1)}

    for seed, steps in reports.items():
        order = epoch_order(len(ROWS), seed, 0)
        assert [row for step in steps[:2] for row in step.rows] == [ROWS[index].row for index in order]
    assert [step.loss for step in reports[0]] != [step.loss for step in reports[1]]


@pytest.mark.parametrize(("batch", "accumulation"), [(2, 2), (1, 4)])
def test_accumulated_batches_are_one_large_batch(batch: int, accumulation: int) -> None:
    split = SHORT.model_copy(
        update={"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    )

    assert split.rows_per_step == SHORT.rows_per_step == 4
    assert _same(_trained(training=split), _trained())


# --- steps and rates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_every_step_learns_at_the_rate_of_the_schedule(kind: str) -> None:
    training = SHORT.model_copy(update={"max_steps": 5, "lr_scheduler_type": kind, "warmup_steps": 2})
    factor = learning_rate_factor(training, 5)

    rates = [report.learning_rate for report in _train(start(lively_model()), training)]

    assert rates == pytest.approx([1e-2 * factor(step) for step in range(1, 6)])


@pytest.mark.parametrize("warmup", [0, 4])
def test_the_rate_is_the_size_of_adams_first_step(warmup: int) -> None:
    training = SHORT.model_copy(update={"max_steps": 8, "warmup_steps": warmup, "max_grad_norm": 0.0})
    state = start(lively_model(), FULL, training)
    before = {name: part.detach().clone() for name, part in state.parameters.items()}

    report = next(steps := train_steps(state, ROWS, training, PLAN, seed=0))
    steps.close()

    largest = max(
        float((part.detach() - before[name]).abs().max()) for name, part in state.parameters.items()
    )
    assert report.learning_rate == pytest.approx(1e-2 / max(1, warmup))
    assert largest == pytest.approx(report.learning_rate, rel=1e-2)


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_without_a_rate_the_usual_one_for_method_and_width_is_taken(tuning: TuningConfig) -> None:
    training = SHORT.model_copy(update={"learning_rate": None, "warmup_steps": 0, "max_steps": 1})

    (report,) = _train(start(lively_model(), tuning, training), training)

    assert report.learning_rate == default_learning_rate(tuning.method, 32)


@pytest.mark.parametrize(("limit", "expected"), [(0.0, None), (1e6, None), (1e-3, 1e-3), (0.05, 0.05)])
def test_gradients_are_scaled_down_to_the_largest_norm_allowed(limit: float, expected: float | None) -> None:
    """Adam's first moment after one step is a tenth of the gradient it was given."""
    training = SHORT.model_copy(update={"max_steps": 1, "max_grad_norm": limit})
    state = start(lively_model(), LORA, training)

    (report,) = _train(state, training)

    moments = [value for name, value in weights(state).items() if name.endswith("exp_avg")]
    given = math.sqrt(sum(float(moment.square().sum()) for moment in moments)) / (1 - training.adam_beta1)
    assert report.grad_norm > 0.1
    assert given == pytest.approx(expected or report.grad_norm, rel=1e-3)


def test_a_report_says_what_the_step_was() -> None:
    reports = _train(start(lively_model()))

    lengths = {row.row: len(row.input_ids) for row in ROWS}
    trained = {row.row: int(row.trained.sum()) for row in ROWS}
    assert [report.step for report in reports] == [1, 2, 3]
    assert [report.epoch for report in reports] == [0.5, 1.0, 1.5]
    assert {report.total_steps for report in reports} == {3}
    assert [report.tokens for report in reports] == [sum(lengths[row] for row in r.rows) for r in reports]
    assert [report.trained_tokens for report in reports] == [
        sum(trained[row] for row in r.rows) for r in reports
    ]
    assert [report.tokens_seen for report in reports] == [
        sum(report.tokens for report in reports[: place + 1]) for place in range(3)
    ]
    assert all(report.seconds > 0 for report in reports)


# --- going on, and leaving ----------------------------------------------------------------------------------


def test_a_loop_begun_again_goes_on_as_if_undisturbed() -> None:
    state = start(lively_model())
    broken_off = train_steps(state, ROWS, SHORT, PLAN, seed=0)
    losses = [report.loss for report in islice(broken_off, 1)]
    broken_off.close()

    losses += [report.loss for report in _train(state)]

    assert _same((losses, weights(state)), _trained())


def test_a_finished_training_has_no_step_left() -> None:
    state = start(lively_model())
    _train(state)
    after = weights(state)

    assert _train(state) == []
    assert same_bits(weights(state), after)


def test_breaking_off_leaves_no_thread() -> None:
    steps = train_steps(start(lively_model()), ROWS, SHORT, PLAN, seed=0)
    next(steps)

    steps.close()

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


# --- dropout -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_any_number_of_cores_gives_the_same_bits(tuning: TuningConfig) -> None:
    plans = [plan_compute("float32", cores=cores) for cores in (1, 2, 3, 8)]

    first, *others = [_trained(tuning, plan=plan) for plan in plans]

    assert all(_same(first, other) for other in others)
    assert not any(depends_on_cores(start(lively_model(), tuning).forward, plan) for plan in plans)


@pytest.mark.parametrize(
    ("draws", "cores", "depends"), [(False, 8, False), (False, 16, True), (True, 1, False), (True, 2, True)]
)
def test_a_run_knows_when_its_bits_hang_on_the_number_of_cores(
    draws: bool, cores: int, depends: bool
) -> None:
    forward = ForwardPass(tiny_model(), packed=True, draws=draws)
    assert depends_on_cores(forward, plan_compute("float32", cores=cores)) is depends


def test_under_dropout_a_plan_of_two_lanes_repeats_too() -> None:
    """Micro-batches side by side would draw from one generator in whatever order they come."""
    one_step = SHORT.model_copy(update={"max_steps": 1})
    _, first = _trained(DROPOUT, one_step)
    torch.rand(3)

    assert same_bits(_trained(DROPOUT, one_step)[1], first)


@pytest.mark.parametrize("plan", [PLAN, ONE_LANE], ids=["two lanes", "one lane"])
def test_under_dropout_no_token_is_shared_by_two_rows(plan: ComputePlan) -> None:
    training = TrainingConfig(max_steps=1, per_device_train_batch_size=8)
    alike = [example([5, 6, 7, 8, 9, 10 + n], row=str(n)) for n in range(8)]
    state = start(lively_model(), DROPOUT, training)
    seen: list[int] = []
    state.forward = Watched(
        state.forward.model, packed=True, draws=True, look=lambda b: seen.append(len(b.input_ids))
    )

    _train(state, training, rows=alike, plan=plan)

    assert sum(seen) == 6 * 8


# --- precision ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tuning", "weights_in"), [(FULL, torch.float32), (LORA, torch.bfloat16)], ids=["full", "lora"]
)
def test_half_precision_products_train_about_the_same(tuning: TuningConfig, weights_in: torch.dtype) -> None:
    plan = replace(PLAN, dtype="bfloat16")
    state = start(tiny_model(initializer_range=0.1).to(weights_in), tuning, SHORT)
    exact = start(tiny_model(initializer_range=0.1), tuning, SHORT)

    losses = [report.loss for report in _train(state, plan=plan)]

    expected = [report.loss for report in _train(exact)]
    assert losses == pytest.approx(expected, rel=1e-2)
    assert losses != expected
    assert {part.dtype for part in state.parameters.values()} == {torch.float32}


# --- what stops a run ---------------------------------------------------------------------------------------


def _poisoned_base(state: TrainState) -> None:
    """A frozen weight that is no number: so is the loss."""
    state.forward.causal.base_model.norm.weight.data[3] = math.nan


def _infinite_loss(state: TrainState) -> None:
    """Logits that are finite, and whose losses are beyond fp32 when added up."""
    state.forward.causal.base_model.norm.weight.data.mul_(2e37)


@pytest.mark.parametrize(("poison", "value"), [(_poisoned_base, "nan"), (_infinite_loss, "inf")])
def test_a_loss_that_is_no_number_stops_before_anything_changes(
    poison: Callable[[TrainState], None], value: str
) -> None:
    state = start(lively_model())
    steps = train_steps(state, ROWS, SHORT, PLAN, seed=0)
    next(steps)
    poison(state)
    before = weights(state)

    with pytest.raises(TrainingError, match=f"loss became {value} at step 2") as caught:
        next(steps)

    assert caught.value.code == "non-finite-loss"
    assert "row " in caught.value.message
    assert "learning_rate" in caught.value.remedy
    assert same_bits(weights(state), before)
    assert (state.step, {part.grad for part in state.parameters.values()}) == (1, {None})


def test_a_gradient_that_is_no_number_stops_before_anything_changes() -> None:
    """Norms of all-zero states with no epsilon to speak of: the loss is ln(512), its slope is beyond fp32."""
    model = tiny_model(tie_word_embeddings=False, rms_norm_eps=1e-38)
    model.get_input_embeddings().weight.data.zero_()
    state = start(model, FULL, SHORT)
    before = weights(state)

    with pytest.raises(TrainingError, match=r"gradient became (nan|inf) at step 1") as caught:
        _train(state)

    assert caught.value.code == "non-finite-gradient"
    assert "row " in caught.value.message
    assert same_bits(weights(state), before)
    assert state.step == 0


def test_the_state_before_the_first_step_is_all_that_is_trained() -> None:
    model = make_trainable(tiny_model(), LORA, seed=0)

    state = TrainState.start(ForwardPass(model, packed=False), TrainingConfig())

    assert (state.step, state.tokens_seen) == (0, 0)
    assert all(part.requires_grad for part in state.parameters.values())
    assert set(map(id, state.parameters.values())) == {id(part) for part in state.optimizer.state}


# --- rows that vary, and noise ----------------------------------------------------------------------------


def test_varied_rows_are_asked_for_by_epoch_and_index_and_trained_on() -> None:
    asked: list[tuple[int, list[int]]] = []

    def vary(epoch: int, indices: Sequence[int]) -> list[Example]:
        asked.append((epoch, list(indices)))
        return [example([7, 8, 9], row=f"{epoch}/{index}") for index in indices]

    training = TrainingConfig(max_steps=5, per_device_train_batch_size=4, learning_rate=1e-2)
    state = start(lively_model(), LORA, training)
    reports = list(train_steps(state, ROWS, training, PLAN, seed=3, vary=vary))
    orders = [epoch_order(len(ROWS), 3, epoch).tolist() for epoch in range(3)]
    assert asked == [
        (e, orders[e][4 * half : 4 * half + 4]) for e, half in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    ]
    assert reports[2].rows == tuple(f"1/{index}" for index in orders[1][:4])
    assert {report.tokens for report in reports} == {12}


def test_noise_on_embeddings_repeats_with_its_seed_and_changes_what_is_learned() -> None:
    def learned(alpha: float, seed: int = 0) -> dict[str, Tensor]:
        state = start(lively_model(), LORA, SHORT)
        state.forward = replace(state.forward, neftune_noise_alpha=alpha)
        _train(state, plan=ONE_LANE, seed=seed)
        return weights(state)

    assert same_bits(learned(5.0), learned(5.0))
    assert not same_bits(learned(5.0), learned(0.0))
    assert same_bits(learned(0.0), _trained(plan=ONE_LANE)[1])
