"""What a test costs is in the report of the run, and a test over its budget is named from there."""

from __future__ import annotations

import threading
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

from benchmarks.suite_times import main, read
from tests.cost import Cost, Meter

Case = tuple[str, float, float]


def report(path: Path, *cases: Case, seconds: float = 10.0) -> Path:
    """A report as pytest writes it: the name of each test, its seconds by the clock and of the processor."""
    lines = [
        f"<testcase classname='tests.a' name={quoteattr(name)} time='99'><properties>"
        f"<property name='wall' value='{wall}' /><property name='cpu' value='{cpu}' /></properties></testcase>"
        for name, wall, cpu in cases
    ]
    path.write_text(f"<testsuites><testsuite time='{seconds}'>{''.join(lines)}</testsuite></testsuites>")
    return path


def spend(seconds: float) -> None:
    """Wait without the processor."""
    threading.Event().wait(seconds)


class TestMeter:
    def test_a_test_is_charged_for_what_it_does(self) -> None:
        meter = Meter()
        spend(0.05)
        assert meter.own().wall >= 0.05
        assert 0 <= meter.own().cpu <= meter.own().wall

    def test_but_not_for_what_it_shares_however_deep(self) -> None:
        meter = Meter()
        with meter.sharing(), meter.sharing():
            spend(0.05)
        assert meter.shared.wall >= 0.05
        assert meter.own().wall < meter.shared.wall

    def test_costs_add_up(self) -> None:
        assert Cost(3, 2) - Cost(1, 1) + Cost(0.5, 0) == Cost(2.5, 1)


class TestBudget:
    def test_names_every_test_that_is_over_it(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        written = report(tmp_path / "r.xml", ("quick", 0.1, 0.1), ("slow", 1.1, 0.1), ("slower", 2.0, 2.0))
        assert main([str(written), "--each", "1"]) == 1
        said = capsys.readouterr().out
        assert said.index("Over 1 s: tests.a.slower") < said.index("Over 1 s: tests.a.slow\n")
        assert "Over 1 s: tests.a.quick" not in said

    def test_the_edge_is_inside_and_no_budget_is_none(self, tmp_path: Path) -> None:
        written = report(tmp_path / "r.xml", ("edge", 1.0, 0.0))
        assert main([str(written), "--each", "1"]) == 0
        assert main([str(written), "--each", "0.99"]) == 1
        assert main([str(written)]) == 0

    def test_the_whole_run_has_one_too(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        written = report(tmp_path / "r.xml", ("a", 0.1, 0.0), seconds=61)
        assert main([str(written), "--whole", "60"]) == 1
        assert "Over 60 s: the whole run" in capsys.readouterr().out

    def test_it_grows_with_how_busy_the_machine_was(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        written = report(tmp_path / "r.xml", ("computes", 1.5, 0.5), ("waits", 2.9, 0.0), seconds=170)
        assert read(written).busy == 3
        assert main([str(written), "--each", "1", "--whole", "60"]) == 0
        assert "3.0 times as long" in capsys.readouterr().out

    def test_two_threads_at_once_make_no_machine_faster_than_quiet(self, tmp_path: Path) -> None:
        assert read(report(tmp_path / "r.xml", ("threads", 0.5, 1.0))).busy == 1

    def test_a_report_without_costs_is_read_by_the_clock(self, tmp_path: Path) -> None:
        (tmp_path / "r.xml").write_text(
            "<testsuite><testcase classname='a' name='b' time='2.5' /></testsuite>"
        )
        (timed,) = read(tmp_path / "r.xml").tests
        assert (timed.name, timed.wall, timed.cpu) == ("a.b", 2.5, 0.0)


def test_the_run_itself_is_counted(request: pytest.FixtureRequest) -> None:
    """The hooks of tests/cost.py are at work: this test has a meter of its own."""
    meters = [value for value in request.config.stash._storage.values() if isinstance(value, Meter)]
    assert len(meters) == 1
    assert 0 < meters[0].own().wall < 60
