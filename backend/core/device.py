"""What this machine can do: device, precision, threads and memory. Nothing is probed at import. Floor F1."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil
import torch
import torch.nn.functional as F

from backend.errors import ModelError
from backend.run_environment import ComputePlan
from backend.utils.machine_utils import available_cores

__all__ = [
    "ComputePlan",
    "apply_plan",
    "left_as_found",
    "memory_bytes",
    "plan_compute",
    "seed_everything",
    "step_seed",
    "torch_dtype",
]

DTYPES = ("auto", "float32", "bfloat16")
MAX_LANES = 8
BFLOAT16_GAIN = 1.25
"""bfloat16 must beat float32 by this factor to be chosen for frozen weights."""


def torch_dtype(plan: ComputePlan) -> torch.dtype:
    """The precision of the frozen weights as torch names it."""
    return torch.bfloat16 if plan.dtype == "bfloat16" else torch.float32


def plan_compute(dtype: str = "auto", *, cores: int | None = None) -> ComputePlan:
    """Choose device, precision and threads for this machine; ``dtype`` auto measures, else is taken as given.

    Raises ModelError ``bad-dtype`` for a precision that nothing is computed in.
    """
    if dtype not in DTYPES:
        raise ModelError(
            f"The precision is {dtype!r}.", remedy=f"Use one of {', '.join(DTYPES)}.", code="bad-dtype"
        )
    if torch.cuda.is_available():
        chosen = ("bfloat16" if torch.cuda.is_bf16_supported() else "float32") if dtype == "auto" else dtype
        return ComputePlan("cuda", chosen, lanes=1, threads=1, matmul_precision="high")
    precision = _matmul_precision()
    cores = cores or available_cores()
    lanes = min(cores, MAX_LANES)
    chosen = ("bfloat16" if _bfloat16_pays() else "float32") if dtype == "auto" else dtype
    return ComputePlan("cpu", chosen, lanes=lanes, threads=cores // lanes, matmul_precision=precision)


def apply_plan(plan: ComputePlan) -> None:
    """Set matmul precision and the threads of the calling thread."""
    torch.set_float32_matmul_precision(plan.matmul_precision)
    torch.set_num_threads(plan.threads)


@contextmanager
def left_as_found() -> Iterator[None]:
    """Afterwards the calling thread's threads, the matmul precision and the global generators are as they were."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(precision)
            random.setstate(drawn)
            np.random.set_state(drawn_by_numpy)


_PROBING = threading.Lock()


@contextmanager
def _medium_products() -> Iterator[None]:
    """Medium products for a probe, and what was before again; one probe at a time, since all threads share it."""
    with _PROBING:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def _matmul_precision() -> str:
    """Medium sends fp32 products to oneDNN, over twice as fast on AMD; kept only if it stays exact here."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = x.double() @ w.double()
    with _medium_products():
        error = float((F.linear(x, w.t().contiguous()).double() - exact).norm() / exact.norm())
    return "medium" if error < 1e-6 else "highest"


def _bfloat16_pays() -> bool:
    """Whether bfloat16 products are really faster here, by the median of interleaved rounds on one thread."""
    times: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    operands = {
        dtype: (torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)) for dtype in times
    }
    with _medium_products():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for _ in range(7):
            for dtype, (x, w) in operands.items():
                started = time.perf_counter()
                F.linear(x, w)
                times[dtype].append(time.perf_counter() - started)
        torch.set_num_threads(threads)
    gain = statistics.median(times[torch.float32]) / statistics.median(times[torch.bfloat16])
    return gain >= BFLOAT16_GAIN


def seed_everything(seed: int) -> None:
    """Seed every global generator. Nothing of ours draws from them once training runs."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def step_seed(seed: int, step: int, part: int) -> int:
    """A seed that is a pure function of where we are: run seed, step and micro-batch."""
    return int(np.random.SeedSequence([seed, step, part]).generate_state(1)[0])


def memory_bytes() -> int:
    """Resident memory of this process now, in bytes."""
    return int(psutil.Process().memory_info().rss)
