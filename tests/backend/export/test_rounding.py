"""How far a rounded weight may be away: backend/export/rounding.py."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

from backend.export.rounding import LARGEST_ERRORS, OTHER_ERROR, distance, largest_error

WEIGHTS = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)


def test_the_distance_is_relative() -> None:
    assert distance(WEIGHTS, WEIGHTS) == 0
    assert distance(WEIGHTS * 1.1, WEIGHTS) == pytest.approx(0.1)
    assert distance(np.ones(4, np.float32), np.zeros(4, np.float32)) == 2


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_usual_errors_are_well_below_the_largest(kind: str) -> None:
    off = distance(dequantize(quantize(WEIGHTS, Kind[kind]), Kind[kind]), WEIGHTS)
    assert LARGEST_ERRORS[kind] / 2 < off < LARGEST_ERRORS[kind] * 0.8


def test_kinds_without_a_limit_of_their_own_share_one() -> None:
    assert largest_error("TQ1_0") == OTHER_ERROR
