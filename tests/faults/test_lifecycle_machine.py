"""Everything at any time: the lifecycle machine, a short run of it. ``make rel-machine`` runs it at length."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.faults.lifecycle_machine import RunLife

TestRunLife = RunLife.TestCase
TestRunLife.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
