"""Curves along any axis, smoothed and zoomed, and the time that is left: backend/manager/curves.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.manager.curves import AXES, Line, View, line, smoothed, time_left
from backend.manager.scalars import ELAPSED, RunScalars
from backend.run.folder import RunDir

numbers = st.floats(-1e6, 1e6)


def train(run: RunDir, steps: range, *, total: int = 100, seconds: float = 2.0, every: int = 1) -> RunScalars:
    """The curves of a run that logged these steps."""
    with run.metrics_writer() as metrics:
        for step in steps[every - 1 :: every]:
            metrics.append(
                {
                    "kind": "train",
                    "step": step,
                    "total_steps": total,
                    "seconds": seconds,
                    "train/loss": 1.0 / step,
                    "train/epoch": step / 50,
                    "train/tokens_seen": 1000 * step,
                }
            )
    scalars = RunScalars(run)
    scalars.poll()
    return scalars


class TestSmoothing:
    @given(st.lists(numbers, max_size=50))
    def test_without_weight_nothing_changes(self, values: list[float]) -> None:
        assert smoothed(values, 0.0) == values

    @given(st.lists(numbers, min_size=1, max_size=50), st.floats(0.01, 0.99))
    def test_it_stays_between_the_lowest_and_the_highest(self, values: list[float], weight: float) -> None:
        found = smoothed(values, weight)
        room = 1e-6 * (1 + max(map(abs, values)))
        assert min(values) - room <= min(found)
        assert max(found) <= max(values) + room
        assert len(found) == len(values)

    @given(numbers, st.floats(0.01, 0.99), st.integers(1, 30))
    def test_a_constant_stays_itself_from_its_first_point(
        self, value: float, weight: float, count: int
    ) -> None:
        assert smoothed([value] * count, weight) == pytest.approx([value] * count)

    def test_the_debiased_average(self) -> None:
        assert smoothed([1.0, 3.0], 0.5) == pytest.approx([1.0, (0.25 * 1 + 0.5 * 3) / 0.75])


class TestLine:
    @pytest.mark.parametrize(
        ("axis", "x"), [("step", [1, 2, 3]), ("epoch", [0.02, 0.04, 0.06]), ("time", [2, 4, 6])]
    )
    def test_along_an_axis(self, run: RunDir, axis: str, x: list[float]) -> None:
        found = line(train(run, range(1, 4)), "train/loss", View(axis))
        assert found.x == pytest.approx(x)
        assert found.y == pytest.approx([1.0, 0.5, 1 / 3])

    def test_an_evaluation_lies_where_the_step_before_it_lies(self, run: RunDir) -> None:
        train(run, range(1, 4))
        with run.metrics_writer() as metrics:
            metrics.append({"kind": "eval", "step": 0, "seconds": 5.0, "eval/loss": 4.0})
            metrics.append({"kind": "eval", "step": 3, "seconds": 5.0, "eval/loss": 2.0})
        scalars = RunScalars(run)
        scalars.poll()
        assert line(scalars, "eval/loss", View("tokens")) == Line([0.0, 3000.0], [4.0, 2.0])

    def test_a_part_of_the_run(self, run: RunDir) -> None:
        scalars = train(run, range(1, 101))
        assert line(scalars, "train/loss", View(part=(0.5, 0.6))).x == [float(x) for x in range(50, 61)]
        assert line(scalars, "train/loss", View(part=(0.0, 0.0))) == Line([], [])

    def test_no_more_points_than_asked_for_and_no_lost_spike(self, run: RunDir) -> None:
        scalars = train(run, range(1, 1001), total=1000)
        found = line(scalars, "train/loss", View(limit=100))
        assert len(found.x) <= 100
        assert max(found.y) == 1.0

    @pytest.mark.parametrize("axis", AXES)
    def test_nothing_yet(self, run: RunDir, axis: str) -> None:
        assert line(RunScalars(run), "train/loss", View(axis)) == Line([], [])


class TestElapsed:
    def test_steps_that_were_not_written_down_count(self, run: RunDir) -> None:
        assert train(run, range(1, 31), every=10).curve(ELAPSED) == ([10, 20, 30], [20.0, 40.0, 60.0])

    def test_evaluations_take_time_too(self, run: RunDir) -> None:
        train(run, range(1, 2))
        with run.metrics_writer() as metrics:
            metrics.append({"kind": "eval", "step": 1, "seconds": 7.0, "eval/loss": 4.0})
            metrics.append({"kind": "train", "step": 2, "seconds": 2.0, "train/loss": 4.0})
        scalars = RunScalars(run)
        scalars.poll()
        assert scalars.curve(ELAPSED) == ([1, 2], [2.0, 11.0])

    def test_a_rewound_run_counts_anew(self, run: RunDir) -> None:
        scalars = train(run, range(1, 11))
        run.rewind_metrics(5)
        scalars.poll()
        assert scalars.curve(ELAPSED)[1][-1] == 10.0


class TestTimeLeft:
    def test_an_even_pace_leaves_no_doubt(self, run: RunDir) -> None:
        left = time_left(train(run, range(1, 41)))
        assert left is not None
        assert (left.low, left.seconds, left.high) == pytest.approx((120.0, 120.0, 120.0))

    def test_an_uneven_one_has_an_interval_around_it(self, run: RunDir) -> None:
        with run.metrics_writer() as metrics:
            for step in range(1, 41):
                pace = 1.0 + step % 3
                metrics.append(
                    {"kind": "train", "step": step, "total_steps": 80, "seconds": pace, "train/loss": 1}
                )
        scalars = RunScalars(run)
        scalars.poll()
        left = time_left(scalars)
        assert left is not None
        assert 0 < left.low < left.seconds < left.high
        assert left.seconds == pytest.approx(80, rel=0.05)

    def test_nothing_is_left_at_the_end(self, run: RunDir) -> None:
        left = time_left(train(run, range(1, 101)))
        assert left is not None
        assert (left.seconds, left.high) == (0.0, 0.0)

    @pytest.mark.parametrize(("last", "total"), [(3, 100), (10, 5)])
    def test_w19_it_is_not_known_too_early_nor_past_the_end(self, run: RunDir, last: int, total: int) -> None:
        assert time_left(train(run, range(1, last), total=total)) is None

    @given(st.lists(st.floats(0.001, 100), min_size=3, max_size=12), st.integers(12, 500))
    def test_it_is_never_negative_and_lies_in_its_interval(self, paces: list[float], total: int) -> None:
        scalars = RunScalars.__new__(RunScalars)
        elapsed = [sum(paces[: count + 1]) for count in range(len(paces))]
        scalars._curves = {ELAPSED: (list(range(1, len(paces) + 1)), elapsed)}
        scalars.latest = {"total_steps": total}
        left = time_left(scalars)
        assert left is not None
        assert 0 <= left.low <= left.seconds <= left.high
