"""Why an attempt ended: backend/manager/attempt_end.py."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from backend.manager.attempt_end import AttemptEvidence, detail_of, kernel_oom_kills, reason_of

ROOMY = 10**12


def evidence(
    code: int,
    *,
    outcome: bool = False,
    forced: bool = False,
    early: bool = False,
    at_once: bool = False,
    ooms: int = 0,
    free: int = ROOMY,
) -> AttemptEvidence:
    return AttemptEvidence(code, outcome, forced, early, at_once, ooms, free)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (evidence(0, outcome=True), "exited"),
        (evidence(1, outcome=True), "exited"),
        (evidence(-signal.SIGKILL, outcome=True), "exited"),
        (evidence(0), "no-outcome"),
        (evidence(1), "error"),
        (evidence(1, free=1000), "disk-full"),
        (evidence(-signal.SIGKILL), "killed"),
        (evidence(-signal.SIGKILL, ooms=1), "out-of-memory"),
        (evidence(-signal.SIGKILL, forced=True, ooms=1), "stop-forced"),
        (evidence(-signal.SIGKILL, at_once=True, forced=True), "ended-at-once"),
        (evidence(-signal.SIGSEGV, at_once=True), "crashed"),
        (evidence(-signal.SIGTERM), "terminated"),
        (evidence(-signal.SIGINT, ooms=1), "terminated"),
        (evidence(-signal.SIGTERM, early=True), "stopped"),
        (evidence(-signal.SIGKILL, early=True, forced=True), "stopped"),
        (evidence(-signal.SIGTERM, early=True, outcome=True), "exited"),
        (evidence(-signal.SIGSEGV, early=True), "crashed"),
        (evidence(1, early=True), "error"),
        (evidence(-signal.SIGSEGV), "crashed"),
        (evidence(-signal.SIGABRT), "crashed"),
        (evidence(-signal.SIGBUS), "crashed"),
    ],
)
def test_f24_f25_the_evidence_decides(seen: AttemptEvidence, reason: str) -> None:
    assert reason_of(seen) == reason


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (evidence(1), False),
        (evidence(1, free=1000), True),
        (evidence(-signal.SIGKILL, free=1000), True),
        (evidence(1, free=1000, outcome=True), False),
    ],
)
def test_f14_a_full_disk_is_named_with_place_and_bytes(seen: AttemptEvidence, told: bool) -> None:
    said = detail_of(seen, Path("/runs/food"))
    assert ("/runs/food had 1,000 bytes left" in said) is told


def test_the_kernel_counts_its_kills(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("pgfault 5\noom_kill 3\noom_kill_x 9\n")
    assert kernel_oom_kills(tmp_path / "vmstat") == 3
    (tmp_path / "vmstat").write_text("pgfault 5\n")
    assert kernel_oom_kills(tmp_path / "vmstat") == 0
    assert kernel_oom_kills(tmp_path / "missing") == 0
    assert kernel_oom_kills() >= 0
