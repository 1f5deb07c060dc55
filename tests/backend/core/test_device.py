"""The plan for this machine, and what keeps two runs on it equal."""

from __future__ import annotations

import contextlib
import random
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from backend.core import device
from backend.core.device import (
    MAX_LANES,
    ComputePlan,
    apply_plan,
    gpu_memory_bytes,
    gpu_name,
    memory_bytes,
    plan_compute,
    processor,
    restored_globals,
    seed_everything,
    step_seed,
    torch_dtype,
)
from backend.errors import ModelError
from backend.utils.machine_utils import available_cores
from tests.locks import Meeting, both

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


def give_processor(
    patch: pytest.MonkeyPatch,
    *,
    aten: str,
    amx: bool,
    avx512_bf16: bool,
    isa: str,
    vendor: str = "AuthenticAMD",
) -> None:
    """Let torch find a processor with these instructions, of which ``isa`` is the most that oneDNN may use."""
    patch.setattr(device, "_vendor", lambda: vendor)
    patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: aten)
    patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    patch.setenv("ONEDNN_MAX_CPU_ISA", isa)


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.parametrize(
    ("aten", "amx", "avx512_bf16", "isa", "dtype"),
    [
        ("AVX512", True, True, "", "bfloat16"),
        ("AVX512", True, False, "", "bfloat16"),
        ("AVX512", False, True, "", "bfloat16"),
        ("AVX512", False, False, "", "float32"),
        ("AVX2", False, False, "", "float32"),
        ("AVX2", True, True, "", "float32"),
        ("DEFAULT", True, True, "", "float32"),
        ("AVX512", True, True, "AVX512_CORE_AMX", "bfloat16"),
        ("AVX512", True, True, "avx512_core_bf16", "bfloat16"),
        ("AVX512", True, True, "AVX512_CORE", "float32"),
        ("AVX512", True, True, "avx2", "float32"),
    ],
)
def test_auto_goes_by_the_instructions_of_the_processor(
    aten: str, amx: bool, avx512_bf16: bool, isa: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_processor(monkeypatch, aten=aten, amx=amx, avx512_bf16=avx512_bf16, isa=isa)

    assert plan_compute("auto", cores=2).dtype == dtype


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.parametrize(("amx", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_on_an_intel_processor_bfloat16_needs_matrix_tiles(
    amx: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_processor(monkeypatch, aten="AVX512", amx=amx, avx512_bf16=True, isa="", vendor="GenuineIntel")

    assert plan_compute("auto", cores=2).dtype == dtype


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_the_plan_is_the_same_at_each_call_whatever_the_clock_says(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(now)) ** 2)

    assert len({plan_compute(dtype, cores=2) for _ in range(5)}) == 1
    assert next(now) == 0


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_precision_that_was_asked_for_is_taken(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    give_processor(monkeypatch, aten="AVX512", amx=dtype == "float32", avx512_bf16=False, isa="")

    assert plan_compute(dtype, cores=2).dtype == dtype


@pytest.mark.parametrize("dtype", ["int8", "float16", "", "torch.float32"])
def test_a_precision_that_nothing_is_computed_in(dtype: str) -> None:
    with pytest.raises(ModelError, match="Use one of auto, float32, bfloat16") as caught:
        plan_compute(dtype)
    assert caught.value.code == "bad-dtype"


@pytest.mark.parametrize(
    ("asked", "capability", "dtype"),
    [
        ("auto", (9, 0), "bfloat16"),
        ("auto", (8, 0), "bfloat16"),
        ("auto", (7, 5), "float32"),
        ("float32", (9, 0), "float32"),
    ],
)
def test_a_gpu_is_one_lane_in_the_precision_it_has(
    asked: str, capability: tuple[int, int], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)

    assert plan_compute(asked) == ComputePlan("cuda", dtype, lanes=1, threads=1, matmul_precision="high")


def test_the_processor_is_named_with_the_instructions_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    whole = processor("cpu")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    limited = processor("cpu")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    least = processor("cpu")

    assert limited == f"{whole}, ONEDNN_MAX_CPU_ISA=AVX2"
    assert least != limited
    assert whole.partition(",")[0].strip()


def test_a_gpu_is_named_with_its_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")

    assert processor("cuda:1") == "NVIDIA H200, sm_90"


@pytest.mark.usefixtures("_no_gpu")
def test_probing_leaves_torch_as_it_was() -> None:
    device._matmul_precision.cache_clear()
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(2)

    plan_compute(cores=2)

    assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == ("high", 2)


def test_two_who_probe_at_once_leave_the_precision_as_it_was() -> None:
    meeting, before = Meeting(), torch.get_float32_matmul_precision()

    def probe() -> None:
        with device.products_in("medium"):
            assert torch.get_float32_matmul_precision() == "medium"
            meeting.wait()

    both(probe, probe)
    assert not meeting.happened
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(("error", "precision"), [(0.0, "medium"), (1e-3, "highest")])
def test_the_fast_products_are_taken_only_where_they_are_exact(
    error: float, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products as a processor that rounds, or one that does not, gives them, whichever this one is."""

    def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return ((x.double() @ w.double().t()) * (1 + error)).float()

    monkeypatch.setattr(device.F, "linear", product)

    assert device._matmul_precision.__wrapped__() == precision


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
    with contextlib.suppress(ModelError), restored_globals():
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


@pytest.mark.parametrize(("there", "name"), [(True, "Test GPU"), (False, "")])
def test_the_first_gpu_by_name(there: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Test GPU")
    assert gpu_name() == name


@pytest.mark.parametrize(("there", "memory"), [(True, 24 * 2**30), (False, 0)])
def test_the_memory_of_the_first_gpu(there: bool, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(total_memory=24 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    assert gpu_memory_bytes() == memory
