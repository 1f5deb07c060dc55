"""Whether one model answers better than another: backend/inference/evals/paired.py."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.inference.evals.paired import (
    ALPHA,
    Difference,
    Verdict,
    difference,
    holm,
    mcnemar,
    mean_interval,
    share_interval,
    tango_interval,
    verdict_of,
)
from benchmarks.verdicts import coverage

COUNTS = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60)).filter(
    lambda each: sum(each) > 0
)


@pytest.mark.parametrize(
    ("gained", "lost", "rows", "low", "high"),
    [
        (1, 7, 21, -0.517, -0.026),  # Fagerland, Lydersen and Laake (2014), table V
        (0, 0, 40, -0.0876, 0.0876),  # z^2 / (rows + z^2)
    ],
)
def test_the_interval_of_tango(gained: int, lost: int, rows: int, low: float, high: float) -> None:
    assert tango_interval(gained, lost, rows) == pytest.approx((low, high), abs=6e-4)


@given(COUNTS)
def test_the_interval_is_the_other_side_of_the_test(counts: tuple[int, int, int]) -> None:
    gained, lost, same = counts
    low, high = tango_interval(gained, lost, gained + lost + same)
    assert low <= (gained - lost) / sum(counts) <= high
    assert (mcnemar(gained, lost) < ALPHA) == (not low <= 0 <= high)
    assert tango_interval(lost, gained, sum(counts)) == pytest.approx((-high, -low), abs=1e-9)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(15, 5) == pytest.approx(0.02535, abs=1e-4)
    assert mcnemar(5, 15) == mcnemar(15, 5)
    assert mcnemar(3, 3) == mcnemar(0, 0) == 1


def test_passed_and_failed_rows_are_compared() -> None:
    found = difference([1, 1, 1, 1, 0, 0] * 10, [0, 1, 1, 0, 1, 0] * 10)
    assert (found.rows, found.gained, found.lost) == (60, 20, 10)
    assert found.mean == pytest.approx(1 / 6)
    assert found.p == mcnemar(20, 10)
    assert (found.low, found.high) == tango_interval(20, 10, 60)


def test_scores_are_compared_by_a_bootstrap_that_is_the_same_each_time() -> None:
    drawn = np.random.default_rng(0)
    theirs = drawn.random(200) * 0.8
    ours = theirs + 0.1 * drawn.random(200)
    found = difference(ours.tolist(), theirs.tolist())
    assert found == difference(ours.tolist(), theirs.tolist())
    assert 0 < found.low < found.mean < found.high < 0.1
    assert found.verdict() is Verdict.BETTER
    back = difference(theirs.tolist(), ours.tolist())
    assert back.verdict() is Verdict.WORSE
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.sampled_from([0, 0.3, 1]), st.sampled_from([0, 0.5, 1])), min_size=2, max_size=15)
)
def test_the_interval_of_scores_says_what_their_test_says(pairs: list[tuple[float, float]]) -> None:
    found = difference([one for one, _ in pairs], [other for _, other in pairs])
    assert -1 <= found.low <= found.mean <= found.high <= 1
    decided = found.low > 1e-12 or found.high < -1e-12
    assert decided == (found.verdict() is not Verdict.SAME) or abs(found.p - ALPHA) < 0.002


@pytest.mark.parametrize(("rows", "verdict"), [(1, Verdict.SAME), (5, Verdict.SAME), (6, Verdict.BETTER)])
def test_a_difference_that_is_always_the_same_needs_some_rows(rows: int, verdict: Verdict) -> None:
    assert difference([0.75] * rows, [0.25] * rows).verdict() is verdict


def test_a_corrected_p_decides_where_it_is_given() -> None:
    found = Difference(40, 0.2, 0.01, 0.4, 0.04, 10, 2)
    assert (found.verdict(), verdict_of(found.mean, 0.06)) == (Verdict.BETTER, Verdict.SAME)
    assert verdict_of(-0.2, ALPHA) is Verdict.SAME
    assert [str(each) for each in Verdict] == ["better", "no difference seen", "worse"]


def test_a_mean_score_has_an_interval() -> None:
    low, high = mean_interval([0.2, 0.4, 0.6, 0.8] * 10)
    assert 0.4 < low < 0.5 < high < 0.6
    assert mean_interval([1.0] * 10) == (1.0, 1.0)


@pytest.mark.parametrize("true", [0.1, 0.2, 0.25, 0.4, 0.5, 0.53, 0.7, 0.8, 0.9])
def test_the_interval_of_a_share_holds_as_often_as_it_says(true: float) -> None:
    """Exactly, over all counts of 40 rows."""
    rows, held = 40, 0.0
    for passed in range(rows + 1):
        low, high = share_interval(passed, rows)
        held += comb(rows, passed) * true**passed * (1 - true) ** (rows - passed) * (low <= true <= high)
    assert 0.93 < held < 0.97


@pytest.mark.parametrize(("passed", "low", "high"), [(0, 0.0, 0.1044), (40, 0.8956, 1.0), (20, 0.352, 0.648)])
def test_the_interval_of_a_share(passed: int, low: float, high: float) -> None:
    assert share_interval(passed, 40) == pytest.approx((low, high), abs=2e-3)


@pytest.mark.parametrize(
    ("given", "corrected"),
    [
        ([0.01], [0.01]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # statsmodels' multipletests(method="holm")
        ([0.5, 0.9], [1.0, 1.0]),
        ([], []),
    ],
)
def test_many_looks_are_corrected_for(given: list[float], corrected: list[float]) -> None:
    assert holm(given) == pytest.approx(corrected)


def test_intervals_hold_about_as_often_as_they_say() -> None:
    """The whole simulation, which is much finer, is ``make bench-verdicts``."""
    held = coverage(60, 40)
    assert len(held) > 6
    assert {name: share for name, share in held.items() if share < 0.85} == {}
