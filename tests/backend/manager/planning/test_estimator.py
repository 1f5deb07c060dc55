"""Time, memory and disk before a run: backend/manager/planning/estimator.py."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.manager.planning.estimator import (
    ROW_SECONDS,
    START_SECONDS,
    DataFigures,
    Interval,
    Machine,
    PastRun,
    Work,
    around,
    estimate,
    like_runs,
    own_error,
    typical,
    work_of,
)
from backend.manager.planning.model_shape import Linear, ModelShape
from backend.run.config import RunConfig
from backend.run.settings import parse_config
from backend.utils.config_utils import apply_overrides

SHAPE = ModelShape(
    parameters=134_515_008,
    layers=30,
    width=576,
    intermediate=1536,
    vocabulary=49_152,
    context=8192,
    linears=tuple(Linear(f"layers.{n}.up_proj", 576, 6144) for n in range(30)),
)
DATA = DataFigures(rows=700, tokens=42_000, trained_tokens=4_000, validation_rows=160)
MACHINE = Machine(cores=2, memory_bytes=24 * 10**9, disk_free_bytes=10**11)
WORK = Work(100, 10_000, 10**6, operations=1e12, memory_bytes=1e9, disk_bytes=1e8)
PAST = PastRun("run", SHAPE.parameters, "lora", "cpu", "bfloat16", WORK, 10.0, 2e9, 1e8)


def config(**changes: Any) -> RunConfig:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return parse_config(apply_overrides({"data": {"train": "rows.jsonl"}}, dotted))


def test_a_reference_costs_passes_over_the_answers_without_gradient() -> None:
    once = {"training__num_train_epochs": 1, "evaluation__eval_steps": 0}
    plain, dpo, kto = (
        work_of(config(objective__method=method, **once), SHAPE, DATA).operations
        for method in ("orpo", "dpo", "kto")
    )
    assert 0.2 < (dpo - plain) / plain < 0.5
    assert kto - plain == pytest.approx(3 * (dpo - plain))
    assert work_of(config(**once), SHAPE, DATA).operations == plain


def test_steps_and_tokens_are_those_of_the_trainer() -> None:
    work = work_of(config(training__num_train_epochs=2), SHAPE, DATA)
    assert (work.steps, work.tokens) == (88, 84_000)
    assert work_of(config(training__max_steps=22), SHAPE, DATA).tokens == 21_000
    assert work_of(config(training__gradient_accumulation_steps=100), SHAPE, DATA).steps == 2
    assert work_of(config(training__num_train_epochs=0.001), SHAPE, DATA).steps == 1


def test_trained_parameters() -> None:
    lora = work_of(config(tuning__lora_r=16), SHAPE, DATA)
    assert lora.trainable_parameters == 30 * 16 * (576 + 6144)
    assert work_of(config(tuning__method="full"), SHAPE, DATA).trainable_parameters == SHAPE.parameters


def test_a_token_costs_two_passes_through_frozen_weights_and_three_through_trained_ones() -> None:
    matrices, no_data = SHAPE.linear_parameters, replace(DATA, validation_rows=0, trained_tokens=0)
    once = {"training__num_train_epochs": 1}
    attention = 6 * 30 * 576 * 60
    full = work_of(config(tuning__method="full", **once), SHAPE, no_data)
    lora = work_of(config(**once), SHAPE, no_data)
    assert full.operations == pytest.approx(42_000 * (6 * matrices + attention))
    assert lora.operations == pytest.approx(
        42_000 * (4 * matrices + 6 * lora.trainable_parameters + attention)
    )


def test_memory_is_weights_moments_gradients_and_what_a_pass_keeps() -> None:
    def memory(**changes: Any) -> float:
        return work_of(config(**changes), SHAPE, DATA, dtype="float32").memory_bytes

    trained, everything = work_of(config(), SHAPE, DATA).trainable_parameters, SHAPE.parameters
    more = 20 * everything - (4 * everything + 20 * trained)
    assert memory(tuning__method="full") - memory() == pytest.approx(more)
    assert memory(training__micro_batch_tokens=64) < memory()
    assert work_of(config(), SHAPE, DATA, dtype="bfloat16").memory_bytes < memory()
    assert memory(tuning__qat_scheme="Q4_0") - memory() == 4 * SHAPE.linear_parameters


@pytest.mark.parametrize(
    ("optim", "matrix", "rest"),
    [
        ("adamw_torch", 8, 8),
        ("adafactor", 0, 0),
        ("muon", 4, 8),
        ("lion_32bit", 4, 4),
        ("lion_8bit", 1, 4),
        ("adamw_8bit", 2, 8),
    ],
)
def test_each_optimizer_keeps_its_own_state_in_memory_and_in_checkpoints(
    optim: str, matrix: float, rest: float
) -> None:
    matrices = SHAPE.linear_parameters
    state = matrices * matrix + (SHAPE.parameters - matrices) * rest
    full = {"tuning__method": "full", "training__save_steps": 0}
    least = work_of(config(training__optim="adafactor", **full), SHAPE, DATA)
    found = work_of(config(training__optim=optim, **full), SHAPE, DATA)
    lora = work_of(config(training__optim=optim), SHAPE, DATA)
    stateless = work_of(config(training__optim="adafactor"), SHAPE, DATA)

    assert found.memory_bytes - least.memory_bytes == pytest.approx(state)
    assert found.disk_bytes - least.disk_bytes == pytest.approx(2 * state)
    assert lora.memory_bytes - stateless.memory_bytes == pytest.approx(lora.trainable_parameters * matrix)


def test_gradient_checkpointing_keeps_the_inputs_of_layers_and_computes_them_again() -> None:
    plain, again = (
        work_of(config(training__gradient_checkpointing=on), SHAPE, replace(DATA, validation_rows=0))
        for on in (False, True)
    )
    a_layer = 7 * 576 + 3 * 1536
    tokens = 16 * 60

    assert plain.memory_bytes - again.memory_bytes == pytest.approx(
        tokens * 4 * (30 * a_layer - 30 * 576 - a_layer)
    )
    assert again.operations / plain.operations == pytest.approx(1.5, rel=0.2)


def test_disk_is_the_checkpoints_that_are_kept_and_the_result() -> None:
    trained = work_of(config(), SHAPE, DATA).trainable_parameters
    one = work_of(config(training__save_total_limit=1), SHAPE, DATA).disk_bytes
    three = work_of(config(training__save_total_limit=3), SHAPE, DATA).disk_bytes
    assert three - one == pytest.approx(2 * 12 * trained)
    at_the_end = config(training__save_steps=0, training__save_total_limit=9)
    assert work_of(at_the_end, SHAPE, replace(DATA, validation_rows=0)).disk_bytes < one


def test_a_start_at_the_base_stands_in_memory_and_in_every_file() -> None:
    plain, pissa = (
        work_of(config(tuning__init_lora_weights=start), SHAPE, DATA) for start in ("default", "pissa")
    )
    assert pissa.trainable_parameters == plain.trainable_parameters
    assert pissa.memory_bytes - plain.memory_bytes == 4 * plain.trainable_parameters
    assert pissa.disk_bytes - plain.disk_bytes == (2 + 1 + 1) * 4 * plain.trainable_parameters


def test_whole_layers_are_trained_in_fp32_with_moments() -> None:
    shape = replace(SHAPE, sizes={"embed_tokens": 49_152 * 576})
    plain, whole = (
        work_of(config(**settings), shape, DATA, dtype="bfloat16")
        for settings in ({}, {"tuning__modules_to_save": ["embed_tokens", "lm_head"]})
    )
    assert whole.trainable_parameters - plain.trainable_parameters == 49_152 * 576
    assert whole.memory_bytes - plain.memory_bytes == 20 * 49_152 * 576


def test_without_experience_the_interval_is_wide_and_says_so() -> None:
    found = estimate(config(), SHAPE, DATA, MACHINE)
    assert found.based_on == 0
    assert "guess" in found.basis
    work = found.seconds.likely - START_SECONDS - 860 * ROW_SECONDS
    assert found.seconds.high - found.seconds.low == pytest.approx(
        0.6 * (found.seconds.likely - work) + work * (4 - 1 / 4)
    )
    assert found.problems == ()


def test_experience_sets_the_speed() -> None:
    slow = replace(PAST, seconds=1000.0)
    fast = estimate(config(), SHAPE, DATA, MACHINE, [PAST])
    assert fast.seconds.likely < estimate(config(), SHAPE, DATA, MACHINE, [slow]).seconds.likely
    assert (fast.based_on, fast.seconds.high) == (1, pytest.approx(1.6 * fast.seconds.likely))


def test_reading_takes_as_long_as_there_are_rows() -> None:
    many = replace(DATA, rows=100_000, tokens=DATA.tokens, validation_rows=0)
    few = replace(many, rows=0)
    once = config(training__max_steps=1)

    def reading(past: list[PastRun]) -> float:
        costs = [estimate(once, SHAPE, each, MACHINE, past) for each in (many, few)]
        work = [work_of(once, SHAPE, each, lanes=2).operations for each in (many, few)]
        return costs[0].seconds.likely - costs[1].seconds.likely - (work[0] - work[1]) / PAST.speed

    rows = [replace(PAST, rows=rows, start_seconds=2.0 + rows / 1000) for rows in (100, 9_000)]
    assert reading(rows) == pytest.approx(100.0)
    assert reading(rows[:1]) == pytest.approx(100_000 * ROW_SECONDS)
    assert reading([replace(PAST, rows=9_000), rows[0]]) == pytest.approx(100_000 * ROW_SECONDS)


def test_a_long_start_is_no_error_of_the_speed() -> None:
    """Runs that differ in how many rows they read, and in nothing else, are told rightly."""
    runs = [replace(PAST, rows=rows, start_seconds=1.0 + rows / 1000) for rows in (0, 2_000, 30_000, 60_000)]
    assert estimate(config(), SHAPE, DATA, MACHINE, runs).basis.endswith("at most 10 % off.")


def test_memory_is_corrected_by_what_was_really_used() -> None:
    known = estimate(config(), SHAPE, DATA, MACHINE, [PAST, PAST])
    formula = work_of(config(), SHAPE, DATA, dtype="bfloat16", lanes=2).memory_bytes
    assert known.memory_bytes.likely == pytest.approx(2 * formula)
    silent = replace(PAST, memory_bytes=0)
    assert estimate(config(), SHAPE, DATA, MACHINE, [silent]).memory_bytes.likely == pytest.approx(formula)


def test_the_interval_is_the_estimates_own_past_error() -> None:
    runs = [replace(PAST, seconds=seconds) for seconds in (100.0, 100.0, 200.0)]
    found = estimate(config(), SHAPE, DATA, MACHINE, runs)
    start = START_SECONDS + 860 * ROW_SECONDS
    (low, likely, high) = (found.seconds.low, found.seconds.likely, found.seconds.high)
    assert (likely - start) / (low - start) == pytest.approx(2 ** (4 / 3))
    assert (high - 1.6 * start) / (likely - start) == pytest.approx(2 ** (4 / 3))
    assert "3 finished runs" in found.basis


@pytest.mark.parametrize("seconds", [0.0, -5.0, math.inf, math.nan])
def test_a1_a_run_that_took_no_time_teaches_nothing(seconds: float) -> None:
    with pytest.raises(ValueError, match="did or took nothing"):
        replace(PAST, seconds=seconds)


@pytest.mark.parametrize("name", ["operations", "memory_bytes", "disk_bytes"])
def test_a1_a_run_that_did_nothing_teaches_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="did or took nothing"):
        replace(PAST, work=replace(WORK, **{name: 0.0}))


@pytest.mark.parametrize("name", ["rows", "start_seconds", "memory_bytes"])
def test_a1_figures_below_nothing_teach_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="below 0"):
        replace(PAST, **{name: -1})


def test_steady_runs_never_claim_to_be_exact() -> None:
    assert own_error([PAST] * 5, lambda _one, _rest: 1.0) == 1.1


def test_only_runs_of_like_size_count_and_the_nearest_comes_first() -> None:
    near, far = replace(PAST, parameters=SHAPE.parameters * 2), replace(PAST, parameters=SHAPE.parameters * 5)
    full, gpu = replace(PAST, method="full"), replace(PAST, device="cuda")
    assert like_runs([far, near, full, gpu, PAST], SHAPE.parameters, "lora", "cpu") == [PAST, near]


def test_what_does_not_fit_is_said_beside_its_field() -> None:
    small = Machine(cores=2, memory_bytes=10**9, disk_free_bytes=10**6)
    problems = estimate(config(tuning__method="full"), SHAPE, DATA, small).problems
    assert [each.field for each in problems] == ["training.micro_batch_tokens", "training.save_total_limit"]
    assert "GB" in str(problems[0])
    assert all(each.remedy for each in problems)


def test_a_gpu_is_assumed_to_be_faster() -> None:
    gpu = replace(MACHINE, device="cuda")
    assert (
        estimate(config(), SHAPE, DATA, gpu).seconds.likely
        < estimate(config(), SHAPE, DATA, MACHINE).seconds.likely
    )


def test_nothing_known_costs_nothing_much() -> None:
    nothing = ModelShape(0, 0, 0, 0, 0, 0, ())
    found = estimate(config(), nothing, DataFigures(0, 0, 0), MACHINE)
    assert (found.steps, found.tokens, found.trainable_parameters) == (1, 0, 0)
    assert found.seconds.likely == START_SECONDS


def test_around_and_typical() -> None:
    assert around(8.0, 2.0) == Interval(4.0, 8.0, 16.0)
    assert typical([1.0, 100.0]) == pytest.approx(10.0)


@given(
    rows=st.integers(1, 10**6),
    length=st.integers(2, 4096),
    speeds=st.lists(st.floats(1.0, 1e5), max_size=6),
    full=st.booleans(),
)
def test_bounds_enclose_and_more_data_never_costs_less(
    rows: int, length: int, speeds: list[float], full: bool
) -> None:
    past = [replace(PAST, seconds=speed) for speed in speeds]
    settings = config(tuning__method="full" if full else "lora")
    data = DataFigures(rows, rows * length, rows)
    found = estimate(settings, SHAPE, data, MACHINE, past)
    more = estimate(settings, SHAPE, DataFigures(rows + 1, (rows + 1) * length, rows + 1), MACHINE, past)
    for each in (found.seconds, found.memory_bytes, found.disk_bytes):
        assert 0 < each.low <= each.likely <= each.high
    assert found.seconds.low >= START_SECONDS + rows * ROW_SECONDS
    assert more.seconds.likely >= found.seconds.likely


@pytest.mark.parametrize(
    ("settings", "per_weight"),
    [
        ({"model__load_in_4bit": True}, 0.5625),
        ({"model__load_in_4bit": True, "model__use_bnb_nested_quant": True}, 0.516),
        ({"model__load_in_8bit": True}, 1.0),
    ],
)
def test_packed_weights_take_less_memory_and_the_embeddings_stay(
    settings: dict[str, Any], per_weight: float
) -> None:
    plain = work_of(config(), SHAPE, DATA, dtype="bfloat16").memory_bytes
    packed = work_of(config(**settings), SHAPE, DATA, dtype="bfloat16").memory_bytes
    one_unpacked = 576 * 6144 * 2
    assert plain - packed == pytest.approx(
        (2 - per_weight) * SHAPE.linear_parameters - one_unpacked, rel=1e-3
    )


def test_experts_are_not_packed() -> None:
    experts = replace(
        SHAPE, linears=tuple(replace(one, name=f"mlp.experts.0.{one.name}") for one in SHAPE.linears)
    )
    packed = work_of(config(model__load_in_4bit=True), experts, DATA).memory_bytes
    assert packed == work_of(config(), experts, DATA).memory_bytes
