"""Where memory runs out, less is computed at once: backend/training/memory.py."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from backend.errors import TrainingError
from backend.training.batching import Packing
from backend.training.memory import first_that_fits
from tests.backend.core.rows import random_rows

ROWS = random_rows([20] * 6)
SMALLER = partial(Packing.smaller, examples=ROWS, group=1)
OUT = [
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    TrainingError("m", remedy="r", code="out-of-memory"),
]


@pytest.mark.parametrize("error", OUT, ids=lambda error: type(error).__name__)
def test_it_is_halved_until_it_fits(error: Exception) -> None:
    tried: list[int] = []

    def compute(packing: Packing) -> str:
        tried.append(packing.budget)
        if packing.budget > 30:
            raise error
        return "done"

    packing, found = first_that_fits(Packing(160), compute, SMALLER)

    assert (packing.budget, found) == (tried[-1], "done")
    assert tried == sorted(tried, reverse=True)
    assert packing.budget <= 30 < tried[-2]


@pytest.mark.parametrize("error", [*OUT, RuntimeError("shapes"), TrainingError("m", remedy="r", code="else")])
def test_other_errors_and_single_rows_that_do_not_fit_are_raised(error: Exception) -> None:
    def compute(_: Packing) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        first_that_fits(Packing(160), compute, SMALLER)
    assert caught.value is error
