"""Where memory runs out, compute less at once: the same again in micro-batches of half the size."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from backend.core.device import is_out_of_memory
from backend.errors import TrainingError
from backend.training.batching import Packing

T = TypeVar("T")


def first_that_fits(
    packing: Packing, compute: Callable[[Packing], T], smaller: Callable[[Packing], Packing | None]
) -> tuple[Packing, T]:
    """Return ``packing``, or where memory runs out the first smaller one that fits, and what it computes.

    ``smaller`` returns the next packing to try, or None where rows stand alone already: the error is then raised. All
    processes must run out together, see ``World``.
    """
    while True:
        try:
            return packing, compute(packing)
        except (RuntimeError, MemoryError, TrainingError) as error:
            code = error.code if isinstance(error, TrainingError) else ""
            less = smaller(packing) if code == "out-of-memory" or is_out_of_memory(error) else None
            if less is None:
                raise
            packing = less
        # here and not above, where the error still holds the tensors of the failed pass
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
