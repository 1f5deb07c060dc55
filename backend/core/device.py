"""Device, precision and threads of a run on this machine; random seeds; memory. Nothing is probed at import."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.nn.functional as F

from backend.errors import ModelError
from backend.run.environment import ComputePlan
from backend.utils.machine_utils import available_cores

__all__ = [
    "ComputePlan",
    "apply_plan",
    "gpu_memory_bytes",
    "gpu_name",
    "is_out_of_memory",
    "memory_bytes",
    "plan_compute",
    "processor",
    "products_in",
    "restored_globals",
    "seed_everything",
    "step_seed",
    "torch_dtype",
]

DTYPES = ("auto", "float32", "bfloat16")
MAX_LANES = 8

_ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that restrict the instruction set of oneDNN, which computes torch's matrix products."""
_ISA_WITHOUT_BFLOAT16 = frozenset(
    {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
)
"""Values of them under which bfloat16 products are emulated, slower than float32 ones."""


def torch_dtype(plan: ComputePlan) -> torch.dtype:
    """Return the dtype of the frozen weights."""
    return torch.bfloat16 if plan.dtype == "bfloat16" else torch.float32


def plan_compute(dtype: str = "auto", *, cores: int | None = None) -> ComputePlan:
    """Choose device, precision and threads for this machine; the same at every call, since nothing is timed.

    ``dtype`` "auto" means bfloat16 where this processor multiplies it faster than float32, else float32.
    Raises ModelError ``bad-dtype`` for any other name.
    """
    if dtype not in DTYPES:
        raise ModelError(
            f"The precision is {dtype!r}.", remedy=f"Use one of {', '.join(DTYPES)}.", code="bad-dtype"
        )
    if torch.cuda.is_available():
        chosen = _auto(torch.cuda.get_device_capability() >= (8, 0)) if dtype == "auto" else dtype
        return ComputePlan("cuda", chosen, lanes=1, threads=1, matmul_precision="high")
    precision = _matmul_precision()
    cores = cores or available_cores()
    lanes = min(cores, MAX_LANES)
    chosen = _auto(_multiplies_bfloat16()) if dtype == "auto" else dtype
    return ComputePlan("cpu", chosen, lanes=lanes, threads=cores // lanes, matmul_precision=precision)


def processor(device: str) -> str:
    """Return the processor of ``device`` and its instruction set, which together decide the bits of results."""
    if device.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability()
        return f"{torch.cuda.get_device_name()}, sm_{major}{minor}"
    limits = [f"{name}={os.environ[name]}" for name in _ISA_LIMITS if name in os.environ]
    return ", ".join([_model_name(), torch.backends.cpu.get_cpu_capability(), *limits])


def _model_name() -> str:
    """Return the processor's name as the operating system gives it."""
    return (
        _cpuinfo({"model name", "CPU part"}) or platform.processor() or platform.machine()
    )  # the latter on ARM


def _vendor() -> str:
    """Return who made the processor, as it says itself, such as GenuineIntel; empty where that is not known."""
    return _cpuinfo({"vendor_id"})


def _cpuinfo(names: Collection[str]) -> str:
    """Return the first value of these names in what Linux says about its processors; empty if there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in names:
                return value.strip()
    return ""


def apply_plan(plan: ComputePlan) -> None:
    """Set torch's matmul precision and the number of threads of the calling thread."""
    torch.set_float32_matmul_precision(plan.matmul_precision)
    torch.set_num_threads(plan.threads)


@contextmanager
def restored_globals() -> Iterator[None]:
    """Restore, after the block, the thread count, the matmul precision and all global random generators."""
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


_SETTING = threading.Lock()


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Set torch's matmul precision inside the block; one thread at a time, since the setting is global."""
    with _SETTING:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


@cache
def _matmul_precision() -> str:
    """Return "medium" if fp32 products stay exact under it on this processor, else "highest".

    With "medium" torch hands fp32 products to oneDNN, over twice as fast on AMD. With AMX it is not exact: oneDNN
    then computes them in bfloat16.
    """
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = x.double() @ w.double()
    with products_in("medium"):
        error = float((F.linear(x, w.t().contiguous()).double() - exact).norm() / exact.norm())
    return "medium" if error < 1e-6 else "highest"


def _auto(fast: bool) -> str:
    return "bfloat16" if fast else "float32"


def _multiplies_bfloat16() -> bool:
    """True if this processor has bfloat16 matrix instructions (AMX-BF16, AVX512-BF16) that beat float32.

    On Intel's, AVX512-BF16 alone does not: half the speed of float32 on Emerald Rapids (docs/performance.md).
    """
    limits = {os.environ.get(name, "").upper() for name in _ISA_LIMITS}
    if limits & _ISA_WITHOUT_BFLOAT16 or not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    # private in torch; in a version without them, bool() stands in and returns False
    has_tiles, has_vectors = (
        getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return has_tiles or (has_vectors and _vendor() != "GenuineIntel")


def seed_everything(seed: int) -> None:
    """Seed all global random generators (Python, NumPy, torch)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def step_seed(seed: int, step: int, part: int) -> int:
    """Return a seed for one micro-batch, a pure function of (run seed, step, micro-batch)."""
    return int(np.random.SeedSequence([seed, step, part]).generate_state(1)[0])


def is_out_of_memory(error: BaseException) -> bool:
    """True if ``error`` means that memory ran out; on CPU torch raises RuntimeError with a message."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def gpu_name() -> str:
    """Return the name of the first GPU; empty where there is none."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""


def gpu_memory_bytes() -> int:
    """Return the memory of the first GPU; 0 where there is none."""
    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else 0


def memory_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    return int(psutil.Process().memory_info().rss)
