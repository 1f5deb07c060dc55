"""A test that may be looked at after every row: backend/inference/evals/sequential.py."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.inference.evals.paired import Verdict
from backend.inference.evals.sequential import Sequential
from benchmarks.verdicts import rows_until_decided, wrong_sequential


def test_rows_that_differ_are_counted() -> None:
    state = Sequential().after([1, 1, 0, 0.5], [0, 1, 1, 0.2]).after([1], [0])
    assert state == Sequential(gained=3, lost=1)
    with pytest.raises(ValueError, match="shorter"):
        state.after([1, 1], [1])


@given(st.integers(0, 20))
def test_the_evidence_is_a_fair_game(rows: int) -> None:
    """Over all outcomes of so many fair coins its mean is exactly 1."""
    mean = sum(comb(rows, won) * Sequential(won, rows - won).evidence() for won in range(rows + 1)) / 2**rows
    assert mean == pytest.approx(1)


@given(st.integers(0, 15), st.integers(0, 15))
def test_the_evidence_is_the_integral_over_all_shares(gained: int, lost: int) -> None:
    exact = Fraction(2 ** (gained + lost), (gained + lost + 1) * comb(gained + lost, gained))
    assert Sequential(gained, lost).evidence() == pytest.approx(float(exact))


@pytest.mark.parametrize(
    ("gained", "lost", "verdict"),
    [
        (0, 0, Verdict.SAME),
        (7, 0, Verdict.SAME),
        (8, 0, Verdict.BETTER),
        (0, 8, Verdict.WORSE),
        (100, 90, Verdict.SAME),
        (100_000, 0, Verdict.BETTER),
    ],
)
def test_it_decides_once_the_evidence_is_twenty_to_one(gained: int, lost: int, verdict: Verdict) -> None:
    assert Sequential(gained, lost).verdict() is verdict


def test_it_is_seldom_wrong_however_often_it_is_looked_at() -> None:
    """Two thousand runs of a thousand looks are ``make bench-verdicts``."""
    assert wrong_sequential(100, rows=150) <= 0.05


def test_it_sees_what_is_plainly_better() -> None:
    assert rows_until_decided(20, (0.2, 0.6, 0.05, 0.15), rows=200) < 60
