"""What each test costs, written into the report of a run: ``pytest --junitxml FILE``, read by benchmarks/suite.py.

A test is not charged for what it shares: a fixture of a wider scope is made by whichever test comes first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock, and of the processor: of this process and of its children that have ended."""

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.wall - other.wall, self.cpu - other.cpu)


def so_far() -> Cost:
    """What this process has cost since it began; only differences mean anything."""
    used = os.times()
    return Cost(time.perf_counter(), time.process_time() + used.children_user + used.children_system)


@dataclass
class Meter:
    """The cost of the test at work, without that of what it shares."""

    began: Cost = field(default_factory=so_far)
    shared: Cost = Cost()
    depth: int = 0

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Whatever is done inside is no cost of the test; one inside another counts once."""
        began = so_far()
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            if not self.depth:
                self.shared += so_far() - began

    def own(self) -> Cost:
        """What the test has cost until now."""
        return so_far() - self.began - self.shared


_meter = pytest.StashKey[Meter]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Start counting for this test."""
    item.config.stash[_meter] = Meter()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Leave out what is made for more than one test."""
    if fixturedef.scope == "function":
        return (yield)
    with request.config.stash[_meter].sharing():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write the cost down with the last of a test's reports."""
    if call.when == "teardown":
        cost = item.config.stash[_meter].own()
        item.user_properties += [("wall", round(cost.wall, 4)), ("cpu", round(cost.cpu, 4))]
    return (yield)
