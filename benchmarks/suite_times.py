"""What a run of the tests cost, from its report, and which tests are over their budget.

    pytest --junitxml REPORT ...
    python benchmarks/suite_times.py REPORT [--each SECONDS] [--whole SECONDS]

Exits 1 when a test, or the whole run, took longer than it may. The budgets are for a quiet machine: on a busy one,
where a test that only computes waits for its processor, they grow by as much as such tests took longer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

SHOWN = 15
COMPUTING = 0.2
"""Seconds of the processor from which on a test tells how busy the machine was."""


@dataclass(frozen=True)
class Timed:
    """A test: ``wall`` seconds by the clock and ``cpu`` of the processor, without what it shares with others."""

    name: str
    wall: float
    cpu: float


@dataclass(frozen=True)
class Report:
    """The tests of a run, and the seconds from its first to its last."""

    tests: Sequence[Timed]
    whole: float

    @property
    def busy(self) -> float:
        """How many times longer than alone on the machine a test took; 1 on a quiet one."""
        ratios = [test.wall / test.cpu for test in self.tests if test.cpu >= COMPUTING]
        return max(1.0, median(ratios)) if ratios else 1.0


def read(path: Path) -> Report:
    """The report that pytest wrote. Raises OSError and ElementTree.ParseError."""
    suites = [*ElementTree.parse(path).getroot().iter("testsuite")]  # noqa: S314 - our own file
    tests = [_timed(case) for suite in suites for case in suite.iter("testcase")]
    return Report(tests, sum(float(suite.get("time", 0)) for suite in suites))


def _timed(case: ElementTree.Element) -> Timed:
    noted = {each.get("name"): float(each.get("value", 0)) for each in case.iter("property")}
    name = f"{case.get('classname')}.{case.get('name')}"
    return Timed(name, noted.get("wall", float(case.get("time", 0))), noted.get("cpu", 0.0))


def over(report: Report, each: float) -> list[Timed]:
    """The tests that took more than ``each`` seconds of a quiet machine, the longest first."""
    slow = [test for test in report.tests if test.wall > each * report.busy]
    return sorted(slow, key=lambda test: -test.wall)


def main(words: Sequence[str] | None = None) -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description="What a run of the tests cost")
    parser.add_argument("report", type=Path)
    parser.add_argument("--each", type=float, default=float("inf"), help="seconds that a test may take")
    parser.add_argument("--whole", type=float, default=float("inf"), help="seconds that all may take")
    asked = parser.parse_args(words)
    report = read(asked.report)
    cpu = sum(test.cpu for test in report.tests)
    print(f"{len(report.tests)} tests in {report.whole:.0f} s, {cpu:.0f} s of the processor without imports")
    if report.busy > 1.2:
        print(f"The machine was busy: tests took {report.busy:.1f} times as long as alone.")
    print("  wall    cpu  slowest")
    for test in sorted(report.tests, key=lambda test: -test.wall)[:SHOWN]:
        print(f"{test.wall:6.2f} {test.cpu:6.2f}  {test.name}")
    slow = over(report, asked.each)
    for test in slow:
        print(f"Over {asked.each:g} s: {test.name}")
    late = report.whole > asked.whole * report.busy
    if late:
        print(f"Over {asked.whole:g} s: the whole run")
    return 1 if slow or late else 0


if __name__ == "__main__":
    sys.exit(main())
