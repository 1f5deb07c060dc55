"""How sure a share is: backend/utils/interval_utils.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.utils.interval_utils import score_interval


def test_a_known_interval() -> None:
    assert score_interval(80, 100) == pytest.approx((0.7112, 0.8666), abs=1e-4)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_it_holds_the_share_and_stays_a_share(total: int, share: float) -> None:
    right = round(share * total)
    low, high = score_interval(right, total)
    assert -1e-9 <= low <= right / total + 1e-9
    assert right / total - 1e-9 <= high <= 1 + 1e-9


def test_more_rows_make_it_narrower() -> None:
    widths = [high - low for low, high in (score_interval(8 * n, 10 * n) for n in (1, 10, 100))]
    assert widths == sorted(widths, reverse=True)
