"""Curves in a terminal: backend/commands/plot.py."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.commands.plot import bar, curve_lines, sparkline

numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)


def dots(line: str) -> str:
    return line.partition("┤")[2]


class TestCurve:
    def test_a_straight_fall_goes_from_the_upper_left_to_the_lower_right(self) -> None:
        lines = curve_lines(range(0, 42, 3), range(42, 0, -3), width=32, height=5)
        drawn = [dots(line) for line in lines[:5]]
        starts = [line.find(line.strip("⠀")) for line in drawn]
        assert starts == [0, 4, 8, 12, 17]
        assert drawn[-1].strip("⠀") == drawn[-1][17:]

    def test_the_range_stands_beside_it_and_the_steps_below(self) -> None:
        lines = curve_lines([1, 50], [2.5, 0.125], width=40, height=4, last_step=1200)
        assert lines[0].startswith("       2.5┤")
        assert lines[3].startswith("     0.125┤")
        assert lines[4].split() == ["step", "0", "1,200"]

    def test_what_is_still_to_come_is_left_empty(self) -> None:
        lines = curve_lines([1, 50], [1, 0], width=40, height=4, last_step=100)
        assert {dots(line)[15:] for line in lines[:4]} == {"⠀" * 14}
        assert all(dots(line)[:15].strip("⠀") for line in lines[:4])

    def test_a_flat_curve_runs_along_the_middle(self) -> None:
        drawn = [dots(line).strip("⠀") for line in curve_lines([0, 9], [3, 3], width=30, height=5)[:5]]
        assert [bool(line) for line in drawn] == [False, False, True, False, False]

    @pytest.mark.parametrize("values", [[], [math.nan], [math.inf, -math.inf]])
    def test_nothing_finite_is_nothing(self, values: list[float]) -> None:
        assert curve_lines(range(len(values)), values, width=30, height=5) == []

    @given(st.lists(numbers, max_size=60), st.integers(0, 200), st.integers(1, 9))
    def test_it_always_fits(self, values: list[float], width: int, height: int) -> None:
        lines = curve_lines(range(len(values)), values, width=width, height=height)
        assert len(lines) in {0, height + 1}
        assert all(len(line) == max(width, 13) for line in lines[:-1])


class TestSparkline:
    def test_low_to_high(self) -> None:
        assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"

    def test_gaps_and_flats(self) -> None:
        assert sparkline([1, math.nan, 1]) == "▁ ▁"
        assert sparkline([]) == ""

    @given(st.lists(numbers))
    def test_a_character_a_value(self, values: list[float]) -> None:
        assert len(sparkline(values)) == len(values)


class TestBar:
    @pytest.mark.parametrize(
        ("share", "drawn"), [(0, ""), (1, "████"), (0.5, "██"), (0.0001, "▏"), (0.53125, "██▏")]
    )
    def test_its_length(self, share: float, drawn: str) -> None:
        assert bar(share, 4) == drawn
