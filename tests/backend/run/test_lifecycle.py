"""The state of a run and what may follow it: backend/run/lifecycle.py and docs/lifecycle.md."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.errors import NextStep, RunError
from backend.run.lifecycle import LIVE, LOST_REASONS, TRANSITIONS, Event, Evidence, derive, require
from backend.run.pace import Health
from backend.run.reports import AttemptEnd, Outcome, QueueTicket, RunStatus

OUTCOME = Outcome(RunStatus.FINISHED, "completed", "Done.", attempt=2)
TICKET = QueueTicket("2026-01-01T00:00:00", after_attempt=2, position=1.0)
HELD = Evidence(held=True, attempt=2)
FREE = Evidence(attempt=2)


def ended(reason: str, **how: Any) -> Evidence:
    return replace(FREE, end=AttemptEnd("2026-01-01", reason, **how))


CASES = {
    "only a config": (Evidence(), "created", "new"),
    "locked, silent": (HELD, "starting", "starting"),
    "locked before its first attempt": (Evidence(held=True), "starting", "starting"),
    "locked, reported": (replace(HELD, reported=True), "running", "training"),
    "locked, stop asked": (replace(HELD, reported=True, stop="paused"), "stopping", "paused"),
    "locked beats an old outcome": (replace(HELD, outcome=OUTCOME), "starting", "starting"),
    "locked beats damage": (replace(HELD, reported=True, damage="x"), "running", "training"),
    "damaged": (replace(FREE, damage="x", outcome=OUTCOME), "failed", "damaged"),
    "queued": (replace(FREE, ticket=TICKET), "queued", "waiting"),
    "queued on hold": (replace(FREE, ticket=replace(TICKET, hold=True)), "queued", "held"),
    "queued, never run": (Evidence(ticket=replace(TICKET, after_attempt=0)), "queued", "waiting"),
    "a spent ticket": (replace(FREE, ticket=replace(TICKET, after_attempt=1)), "interrupted", "lost"),
    "finished": (replace(FREE, outcome=OUTCOME), "finished", "completed"),
    "finished, queued anew": (replace(FREE, outcome=OUTCOME, ticket=TICKET), "queued", "waiting"),
    "an older attempt's outcome": (replace(FREE, outcome=replace(OUTCOME, attempt=1)), "interrupted", "lost"),
    "an outcome of no attempt": (Evidence(outcome=replace(OUTCOME, attempt=1)), "created", "new"),
    "stopped": (
        replace(FREE, outcome=replace(OUTCOME, status=RunStatus.STOPPED, code="paused")), "stopped", "paused",
    ),
    "lost": (FREE, "interrupted", "lost"),
    "rebooted": (replace(FREE, same_boot=False), "interrupted", "rebooted"),
    "killed": (ended("killed", signal_number=9), "interrupted", "killed"),
    "stopped before it began": (ended("stopped", signal_number=15), "stopped", "stop-requested"),
    "paused before it began": (
        replace(ended("stopped", signal_number=15), stop="paused"), "stopped", "paused",
    ),
    "crashed": (ended("crashed", signal_number=11), "failed", "crashed"),
    "left without a word": (ended("no-outcome", exit_code=0), "failed", "no-outcome"),
    "out of memory": (ended("out-of-memory", signal_number=9), "failed", "out-of-memory"),
}  # fmt: skip


@pytest.mark.parametrize(("evidence", "status", "reason"), CASES.values(), ids=CASES.keys())
def test_evidence_decides(evidence: Evidence, status: str, reason: str) -> None:
    state = derive(evidence)
    assert (state.status, state.reason) == (status, reason)
    assert state.message.endswith(".")
    assert state.remedy or state.next_step
    assert state.is_live == evidence.held


@pytest.mark.parametrize("reason", sorted(LOST_REASONS))
def test_an_end_from_outside_is_an_interruption(reason: str) -> None:
    assert derive(ended(reason, signal_number=9)).status is RunStatus.INTERRUPTED


def test_a_crash_names_its_signal_and_an_error_its_code() -> None:
    assert "SIGSEGV" in derive(ended("crashed", signal_number=11)).message
    assert "exit code 7" in derive(ended("error", exit_code=7)).message


SUSPENDED, SILENT = Health(5.0, True), Health(3600.0, False)


@pytest.mark.parametrize(
    ("health", "message", "way_out"),
    [
        (SUSPENDED, "its process 123 is suspended", "Let it go on with: kill -CONT 123."),
        (SILENT, "written nothing for 60 minutes", "Its last words are in train.log."),
    ],
)
def test_f06_a_frozen_trainer_is_not_responding(health: Health, message: str, way_out: str) -> None:
    state = derive(Evidence(held=True, reported=True, attempt=1, health=health, pid=123))
    assert (state.status, state.reason) == (RunStatus.RUNNING, "not-responding")
    assert message in state.message
    assert (state.remedy, state.next_step) == (way_out, NextStep.END)


def test_f06_a_person_s_own_command_is_ended_where_it_runs() -> None:
    state = derive(Evidence(held=True, attempt=1, health=SILENT, pid=123, own_process=True))
    assert state.status is RunStatus.STARTING
    assert state.next_step is None
    assert "in its own terminal (process 123)" in state.remedy


def test_f06_a_frozen_trainer_that_shall_stop_says_both() -> None:
    state = derive(Evidence(held=True, stop="paused", attempt=1, health=SUSPENDED, pid=123))
    assert (state.status, state.reason) == (RunStatus.STOPPING, "paused")
    assert "suspended" in state.message


def test_f06_a_run_at_rest_is_never_silent() -> None:
    assert derive(Evidence(health=SILENT)).reason == "new"


def test_the_state_knows_its_attempt_and_its_damage() -> None:
    state = derive(replace(FREE, damage="outcome.json is cut short"))
    assert state.attempt == 2
    assert state.damage == "outcome.json is cut short"
    assert "outcome.json" in state.message


def test_a_ticket_that_could_not_start_says_why() -> None:
    ticket = replace(TICKET, hold=True, note="The disk is full.")
    assert derive(replace(FREE, ticket=ticket)).message == "The disk is full."


EVERYTHING = {(status, event) for status in RunStatus for event in Event}


@pytest.mark.parametrize(("status", "event"), sorted(TRANSITIONS))
def test_an_event_in_the_table_is_allowed(status: RunStatus, event: Event) -> None:
    assert require("run", status, event) == TRANSITIONS[status, event]


@pytest.mark.parametrize(("status", "event"), sorted(EVERYTHING - TRANSITIONS.keys()))
def test_every_other_event_is_refused(status: RunStatus, event: Event) -> None:
    with pytest.raises(RunError, match=f"run is {status}, so it cannot {event}") as caught:
        require("run", status, event)
    assert caught.value.code == "illegal-transition"


def test_a_refusal_says_what_can_be_done_instead() -> None:
    with pytest.raises(RunError, match="What it can do now: delete"):
        require("run", RunStatus.FINISHED, Event.START)


def test_a_finished_run_never_changes_except_by_deletion() -> None:
    assert {event for status, event in TRANSITIONS if status is RunStatus.FINISHED} == {Event.DELETE}


def test_w13_a_live_run_cannot_be_deleted() -> None:
    assert not {(status, Event.DELETE) for status in LIVE} & TRANSITIONS.keys()


def test_every_state_can_be_reached_and_left() -> None:
    reached = {target for targets in TRANSITIONS.values() for target in targets} | {RunStatus.CREATED}
    assert reached == set(RunStatus) == {status for status, _ in TRANSITIONS}


def test_the_drawing_is_the_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "lifecycle.md").read_text("utf-8")
    drawn = set(re.findall(r"^    (\w+) --> (\S+) : (\w+)$", page, re.MULTILINE))
    table = {
        (str(status), str(target), str(event))
        for (status, event), targets in TRANSITIONS.items()
        for target in (targets or {"[*]"})
    }
    assert drawn == table
