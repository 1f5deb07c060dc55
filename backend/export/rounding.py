"""How far a weight may be from the trained one when a file keeps few bits of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

LARGEST_ERRORS = {
    "Q8_0": 0.01,
    "Q5_1": 0.05,
    "Q5_0": 0.06,
    "Q4_1": 0.1,
    "Q4_0": 0.13,
    "IQ4_NL": 0.12,
    "IQ4_XS": 0.12,
    "Q6_K": 0.03,
    "Q5_K": 0.06,
    "Q4_K": 0.12,
    "Q3_K": 0.24,
    "Q2_K": 0.45,
}
"""Largest allowed relative error of a tensor by its kind; usual errors of trained weights are 0.6 of it."""
OTHER_ERROR = 0.15


def distance(values: Floats, wanted: Floats) -> float:
    """Return the relative root-mean-square difference."""
    return float(np.linalg.norm(values - wanted) / (np.linalg.norm(wanted) or 1.0))


def largest_error(kind: str) -> float:
    """Return the largest allowed relative error of a tensor of ``kind``."""
    return LARGEST_ERRORS.get(kind, OTHER_ERROR)
