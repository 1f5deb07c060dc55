"""Confidence intervals of measured shares."""

from __future__ import annotations


def score_interval(right: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval (1927) of ``right / total`` as (low, high), each 0 to 1."""
    z = 1.959964
    share = right / total
    middle = share + z * z / (2 * total)
    spread = z * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5
    return (middle - spread) / (1 + z * z / total), (middle + spread) / (1 + z * z / total)
