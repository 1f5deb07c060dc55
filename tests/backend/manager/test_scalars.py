"""Curves read bit by bit, thinned honestly: backend/manager/scalars.py."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.manager.scalars import RunScalars, decimate, duration
from backend.run.folder import RunDir

TAGS = st.sampled_from(["train/loss", "eval/loss", "eval/exact_match"])
FIGURES = st.one_of(st.floats(-9, 9), st.integers(-9, 9), st.just("nan"))
RECORDS = st.lists(st.tuples(st.integers(0, 99), st.dictionaries(TAGS, FIGURES)), max_size=30)


def line(step: int, loss: float) -> dict[str, object]:
    return {"kind": "train", "step": step, "epoch": 0.5, "train/loss": loss, "train/learning_rate": 1.25e-6}


class TestCurves:
    def test_they_grow_with_the_file(self, run: RunDir) -> None:
        scalars = RunScalars(run)
        assert scalars.poll() == 0
        with run.metrics_writer() as writer:
            writer.append(line(1, 2.0))
            assert scalars.poll() == 1
            writer.append(line(2, 1.5))
            writer.append({"kind": "eval", "step": 2, "eval/loss": 1.7})
        assert scalars.poll() == 2
        assert scalars.tags() == ["eval/loss", "train/learning_rate", "train/loss"]
        assert scalars.curve("train/loss") == ([1, 2], [2.0, 1.5])
        assert scalars.curve("nothing") == ([], [])
        assert scalars.latest["eval/loss"] == 1.7

    def test_w22_every_digit_and_every_point_is_kept(self, run: RunDir) -> None:
        with run.metrics_writer() as writer:
            for step in range(1, 201):
                writer.append(line(step, step * 1e-7))
        scalars = RunScalars(run)
        scalars.poll()
        steps, rates = scalars.curve("train/learning_rate")
        assert steps == list(range(1, 201))
        assert set(rates) == {1.25e-6}

    def test_a_rewound_run_is_drawn_anew(self, run: RunDir) -> None:
        scalars = RunScalars(run)
        with run.metrics_writer() as writer:
            for step in (1, 2, 3):
                writer.append(line(step, 1.0))
        scalars.poll()
        run.rewind_metrics(1)
        with run.metrics_writer() as writer:
            for step in (2, 3, 4, 5):
                writer.append(line(step, 0.5))
        scalars.poll()
        assert scalars.curve("train/loss") == ([1, 2, 3, 4, 5], [1.0, 0.5, 0.5, 0.5, 0.5])

    def test_f30_what_is_no_number_is_left_out(self, run: RunDir) -> None:
        run.metrics_file.write_text(
            '{"step":1,"train/loss":"nan"}\nrubbish\n{"train/loss":1.0}\n{"step":2,"train/loss":3}\n'
        )
        scalars = RunScalars(run)
        scalars.poll()
        assert scalars.curve("train/loss") == ([2], [3.0])
        assert scalars.damaged_lines == 1

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(RECORDS)
    def test_every_figure_is_a_point_in_the_order_of_the_file(
        self, run: RunDir, records: list[tuple[int, dict[str, object]]]
    ) -> None:
        run.metrics_file.write_text(
            "".join(json.dumps({"step": step, **made}) + "\n" for step, made in records)
        )
        scalars = RunScalars(run)
        assert scalars.poll() == len(records)
        points = [
            (tag, step, value) for step, made in records for tag, value in made.items() if value != "nan"
        ]
        found = {tag: list(zip(*scalars.curve(tag), strict=True)) for tag in scalars.tags()}
        assert found == {
            tag: [(step, value) for name, step, value in points if name == tag] for tag, _, _ in points
        }
        latest = {tag: value for _, made in records for tag, value in made.items()}
        assert {tag: value for tag, value in scalars.latest.items() if tag != "step"} == latest

    def test_w24_a_poll_reads_only_what_is_new(self, run: RunDir) -> None:
        with run.metrics_writer() as writer:
            for step in range(1000):
                writer.append({"step": step, "train/loss": 1.0})
            scalars = RunScalars(run)
            assert scalars.poll() == 1000
            with run.metrics_file.open("r+b") as file:  # whoever reads this again fails
                file.seek(1000)
                file.write(b"x" * 10_000)
            writer.append({"step": 1000, "train/loss": 2.0})
            assert scalars.poll() == 1
            assert scalars.latest["train/loss"] == 2.0


class TestThinning:
    def test_a_short_curve_is_left_as_it_is(self) -> None:
        assert decimate([1, 2, 3], [5.0, 6.0, 7.0], 3) == ([1, 2, 3], [5.0, 6.0, 7.0])

    def test_a_spike_is_never_lost(self) -> None:
        values = [1.0] * 10_000
        values[4321], values[8765] = 99.0, -99.0
        _, kept = decimate(range(10_000), values, 50)
        assert {99.0, -99.0} <= set(kept)

    @given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(0, 60))
    def test_whatever_comes_it_is_short_ordered_and_true(self, values: list[float], limit: int) -> None:
        steps, kept = decimate(range(len(values)), values, limit)
        assert len(steps) <= max(limit, 2) or len(steps) <= 3
        assert steps == sorted(set(steps))
        assert steps[-1] == len(values) - 1
        assert kept == [values[step] for step in steps]

    def test_a_run_can_be_asked_for_few_points(self, run: RunDir) -> None:
        with run.metrics_writer() as writer:
            for step in range(1000):
                writer.append(line(step, float(step)))
        scalars = RunScalars(run)
        scalars.poll()
        steps, _ = scalars.curve("train/loss", limit=100)
        assert len(steps) <= 100
        assert steps[-1] == 999


class TestTime:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0, "0 s"), (4.4, "4 s"), (59.6, "1:00 min"), (725, "12:05 min"), (3600, "1:00:00 h"), (-5, "0 s")],
    )
    def test_durations(self, seconds: float, text: str) -> None:
        assert duration(seconds) == text

    def test_w19_a_day_and_an_hour_are_twenty_five_hours(self) -> None:
        assert duration(25 * 3600) == "25:00:00 h"
