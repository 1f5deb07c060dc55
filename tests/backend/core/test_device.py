"""The plan for this machine, and what keeps two runs on it equal."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

from backend.core import device
from backend.core.device import (
    MAX_LANES,
    ComputePlan,
    apply_plan,
    left_as_found,
    memory_bytes,
    plan_compute,
    seed_everything,
    step_seed,
    torch_dtype,
)
from backend.errors import ModelError
from backend.utils.machine_utils import available_cores

PLAN = ComputePlan("cpu", "bfloat16", lanes=3, threads=2, matmul_precision="medium")


@pytest.fixture
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_the_precision_has_torchs_name(dtype: str, expected: torch.dtype) -> None:
    assert torch_dtype(ComputePlan("cpu", dtype, 1, 1, "highest")) == expected


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.parametrize(
    ("cores", "lanes", "threads"), [(1, 1, 1), (2, 2, 1), (8, 8, 1), (9, 8, 1), (16, 8, 2), (64, 8, 8)]
)
def test_lanes_and_threads_never_claim_more_than_the_cores(cores: int, lanes: int, threads: int) -> None:
    plan = plan_compute("float32", cores=cores)

    assert (plan.device, plan.lanes, plan.threads) == ("cpu", lanes, threads)
    assert plan.lanes <= MAX_LANES
    assert plan.lanes * plan.threads <= cores


@pytest.mark.usefixtures("_no_gpu")
def test_the_plan_of_this_very_machine_uses_the_cores_it_has() -> None:
    plan = plan_compute()

    assert plan.lanes == min(available_cores(), MAX_LANES)
    assert plan.dtype in {"float32", "bfloat16"}
    assert plan.matmul_precision in {"medium", "highest"}


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.parametrize(("pays", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_the_precision_that_pays(pays: bool, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_bfloat16_pays", lambda: pays)

    assert plan_compute("auto", cores=2).dtype == dtype


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_precision_that_was_asked_for_is_not_measured(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_bfloat16_pays", lambda: pytest.fail("measured"))

    assert plan_compute(dtype, cores=2).dtype == dtype


@pytest.mark.parametrize("dtype", ["int8", "float16", "", "torch.float32"])
def test_a_precision_that_nothing_is_computed_in(dtype: str) -> None:
    with pytest.raises(ModelError, match="Use one of auto, float32, bfloat16") as caught:
        plan_compute(dtype)
    assert caught.value.code == "bad-dtype"


@pytest.mark.parametrize(
    ("asked", "supported", "dtype"),
    [("auto", True, "bfloat16"), ("auto", False, "float32"), ("float32", True, "float32")],
)
def test_a_gpu_is_one_lane_in_the_precision_it_has(
    asked: str, supported: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)

    assert plan_compute(asked) == ComputePlan("cuda", dtype, lanes=1, threads=1, matmul_precision="high")


@pytest.mark.usefixtures("_no_gpu")
def test_probing_leaves_torch_as_it_was() -> None:
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(2)

    plan_compute(cores=2)

    assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == ("high", 2)


@pytest.mark.parametrize(("seconds", "pays"), [(0.5, True), (1 / 1.3, True), (1 / 1.2, False), (2.0, False)])
def test_bfloat16_must_win_clearly(seconds: float, pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that gives fp32 products one second each and bfloat16 ones ``seconds``."""
    now = 0.0

    def product(x: torch.Tensor, _: torch.Tensor) -> None:
        nonlocal now
        now += {torch.float32: 1.0, torch.bfloat16: seconds}[x.dtype]

    monkeypatch.setattr(device.F, "linear", product)
    monkeypatch.setattr(device.time, "perf_counter", lambda: now)

    assert device._bfloat16_pays() is pays


@pytest.mark.parametrize(("error", "precision"), [(0.0, "medium"), (1e-3, "highest")])
def test_the_fast_products_are_taken_only_where_they_are_exact(
    error: float, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch.nn.functional.linear
    monkeypatch.setattr(device.F, "linear", lambda x, w: plain(x, w) * (1 + error))

    assert device._matmul_precision() == precision


def test_a_plan_is_put_into_force() -> None:
    apply_plan(PLAN)

    assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == ("medium", 2)


def test_a_seed_fixes_every_global_generator() -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: S311 - that is the point

    seed_everything(7)
    first = draws()
    seed_everything(7)
    again = draws()
    seed_everything(8)

    assert first == again
    assert all(one != other for one, other in zip(first, draws(), strict=True))


def settings_of_the_process() -> tuple[object, ...]:
    drawn = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    return *drawn, torch.get_num_threads(), torch.get_float32_matmul_precision()


def test_a_process_is_left_as_it_was_found_also_by_what_fails() -> None:
    before = settings_of_the_process()
    another = replace(PLAN, threads=torch.get_num_threads() + 1, matmul_precision="high")
    with contextlib.suppress(ModelError), left_as_found():
        seed_everything(7)
        apply_plan(another)
        during = settings_of_the_process()
        plan_compute("float8")
    assert settings_of_the_process() == before
    assert all(now != then for now, then in zip(during, before, strict=True))


@pytest.mark.parametrize("seed", [0, 2**31 - 1, 2**32, 2**40])
def test_every_seed_a_run_may_have_is_taken(seed: int) -> None:
    seed_everything(seed)

    assert torch.initial_seed() == seed


def test_a_step_seed_is_a_function_of_where_we_are_and_nothing_else() -> None:
    places = [(seed, step, part) for seed in range(4) for step in range(4) for part in range(4)]

    seeds = {place: step_seed(*place) for place in places}
    seed_everything(3)

    assert len(set(seeds.values())) == len(places)
    assert {place: step_seed(*place) for place in reversed(places)} == seeds


def test_memory_is_counted_in_bytes() -> None:
    resident = psutil.Process().memory_info().rss

    assert memory_bytes() == pytest.approx(resident, rel=0.2)
