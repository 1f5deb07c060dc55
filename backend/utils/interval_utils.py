"""How sure a measured share is."""

from __future__ import annotations


def score_interval(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share ``right / total``, as (low, high) between 0 and 1 (Wilson, 1927)."""
    z = 1.959964
    share = right / total
    middle = share + z * z / (2 * total)
    spread = z * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5
    return (middle - spread) / (1 + z * z / total), (middle + spread) / (1 + z * z / total)
