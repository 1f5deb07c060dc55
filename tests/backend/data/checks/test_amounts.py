import pytest

from backend.data.checks.amounts import score_interval


def test_the_interval_of_a_score_holds_it_and_narrows_with_more_rows():
    low, high = score_interval(80, 100)
    assert (low, high) == pytest.approx((0.7112, 0.8666), abs=1e-4)
    wider = score_interval(8, 10)
    assert wider[0] < low < 0.8 < high < wider[1]


@pytest.mark.parametrize("right", [0, 10])
def test_the_interval_stays_between_0_and_1(right):
    low, high = score_interval(right, 10)
    assert -1e-9 <= low <= right / 10 + 1e-9
    assert right / 10 - 1e-9 <= high <= 1 + 1e-9
