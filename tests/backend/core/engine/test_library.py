from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from backend.core.engine import build, library
from backend.errors import ModelError
from tests.logs import Logged


@pytest.fixture
def unloaded() -> None:
    """The module as it is before its first use, and again afterwards."""
    library.library.cache_clear()
    library.function.cache_clear()
    yield
    library.library.cache_clear()
    library.function.cache_clear()


@pytest.mark.parametrize(
    ("torchs", "ours"), [("AVX512", "avx512"), ("AVX2", "avx2"), ("DEFAULT", "baseline")]
)
def test_the_variant_follows_what_torch_sees(torchs: str, ours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: torchs)
    assert library.variant() == ours


@pytest.mark.slow
def test_a_cap_on_the_processor_is_honoured() -> None:
    script = "from backend.core.engine import library; print(library.variant())"
    environ = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "baseline"


def test_the_kernels_can_be_switched_off(unloaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.SWITCH, "0")
    assert library.library() is None
    assert library.function("rms_norm") is None


def test_kernels_that_cannot_be_compiled_are_explained_once(
    unloaded: None, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    def refuse(variant: str) -> None:
        raise ModelError(f"no {variant}.", remedy="None.", code="cannot-compile")

    monkeypatch.setattr(build, "variants", lambda: {library.variant(): ()})
    monkeypatch.setattr(build, "compiled", lambda _: None)
    monkeypatch.setattr(build, "compile_variant", refuse)
    assert [library.function("rms_norm"), library.function("other")] == [None, None]
    assert len(logged.records) == 1


@pytest.mark.parametrize(
    ("tensor", "fitting"),
    [
        (torch.ones(2, 3), True),
        (torch.ones(2, 3).t(), False),
        (torch.ones(2, 3, dtype=torch.float64), False),
        (torch.ones(2, device="meta"), False),
        (torch.ones(2, requires_grad=True), False),
        (torch.ones(0), True),
    ],
)
def test_which_tensors_a_kernel_reads(tensor: torch.Tensor, fitting: bool) -> None:
    assert library.fits((torch.ones(1), tensor)) == fitting
