"""The states of a run, derived from evidence, and the events that each state allows.

``derive`` reads the evidence that a run folder holds; a status is never stored. ``TRANSITIONS`` is the table that
docs/lifecycle.md draws; ``require`` refuses every event that is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from backend.errors import NextStep, RunError
from backend.run.pace import RESPONDING, Health
from backend.run.reports import DEFAULT_DEVICE, AttemptEnd, Outcome, QueueTicket, RunState, RunStatus

LOST_REASONS = frozenset({"killed", "terminated", "stop-forced", "ended-at-once", "crash-loop"})
"""Ends of an attempt that say nothing against the run itself: it is interrupted, not failed."""


NOT_RESPONDING = "not-responding"
"""The reason of a live run whose trainer is suspended or silent for longer than its steps explain."""


class Event(StrEnum):
    """An event in the life of a run: the first five are requests by a person, the others are observed."""

    START = "start"
    QUEUE = "queue"
    UNQUEUE = "unqueue"
    STOP = "stop"
    DELETE = "delete"
    REPORT = "report"
    RELAUNCH = "relaunch"
    FINISH = "finish"
    HALT = "halt"
    FAIL = "fail"
    VANISH = "vanish"


_S = RunStatus
_AT_REST = (_S.CREATED, _S.STOPPED, _S.INTERRUPTED, _S.FAILED, _S.FINISHED)
_RESUMABLE = (_S.STOPPED, _S.INTERRUPTED, _S.FAILED)
_ENDS = {
    Event.FINISH: _S.FINISHED,
    Event.HALT: _S.STOPPED,
    Event.FAIL: _S.FAILED,
    Event.VANISH: _S.INTERRUPTED,
}
LIVE = (_S.STARTING, _S.RUNNING, _S.STOPPING)
"""States in which a process holds the run."""


def _table() -> dict[tuple[RunStatus, Event], frozenset[RunStatus]]:
    table = {(status, Event.START): {_S.STARTING} for status in (_S.CREATED, _S.QUEUED, *_RESUMABLE)}
    table |= {(status, Event.QUEUE): {_S.QUEUED} for status in (_S.CREATED, *_RESUMABLE)}
    table |= {(_S.QUEUED, Event.UNQUEUE): {_S.CREATED, *_RESUMABLE}}
    table |= {(status, Event.STOP): {_S.STOPPING} for status in LIVE}
    table |= {(status, event): {target} for status in LIVE for event, target in _ENDS.items()}
    table |= {(_S.STARTING, Event.REPORT): {_S.RUNNING}, (_S.RUNNING, Event.RELAUNCH): {_S.STARTING}}
    table |= {(status, Event.DELETE): set() for status in (*_AT_REST, _S.QUEUED)}
    return {key: frozenset(targets) for key, targets in table.items()}


TRANSITIONS: Mapping[tuple[RunStatus, Event], frozenset[RunStatus]] = MappingProxyType(_table())
"""(state, event) → the states that may follow; empty when the run is gone. What is not here is refused."""


def require(run: str, status: RunStatus, event: Event) -> frozenset[RunStatus]:
    """Return the states that may follow. Raises RunError (``illegal-transition``) if ``event`` is not allowed."""
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        allowed = ", ".join(
            sorted(name for (state, name) in TRANSITIONS if state is status and name in _ASKED)
        )
        raise RunError(
            f"{run} is {status}, so it cannot {event}.",
            remedy=f"What it can do now: {allowed or 'nothing'}.",
            code="illegal-transition",
        ) from None


_ASKED = (Event.START, Event.QUEUE, Event.UNQUEUE, Event.STOP, Event.DELETE)


@dataclass(frozen=True)
class Evidence:
    """The evidence of a run folder about the state of its run.

    ``held``: a process holds the lock. ``stop``: why a stop was asked for, while that counts. ``attempt``: the number
    of the latest attempt, 0 before the first; ``end``: how its process ended. ``reported``: its trainer has written
    something. ``same_boot``: it began on this boot of the machine. ``health``, ``pid`` and ``own_process`` (a command
    or script of the person's own) are those of a live trainer.
    """

    held: bool = False
    stop: str | None = None
    attempt: int = 0
    end: AttemptEnd | None = None
    outcome: Outcome | None = None
    ticket: QueueTicket | None = None
    reported: bool = False
    same_boot: bool = True
    damage: str = ""
    health: Health = RESPONDING
    pid: int = 0
    own_process: bool = False


def derive(evidence: Evidence) -> RunState:
    """Return the state of a run. The lock comes first, since it cannot be wrong; damage comes next."""
    return replace(_judge(evidence), attempt=evidence.attempt, damage=evidence.damage)


def _judge(evidence: Evidence) -> RunState:
    if evidence.held:
        return _judge_live(evidence)
    if evidence.damage:
        message = f"The run folder is damaged: {evidence.damage}."
        remedy = "Nothing was deleted: it can go on from its newest good checkpoint."
        return RunState(_S.FAILED, "damaged", message, remedy, NextStep.RESUME)
    if evidence.ticket and evidence.ticket.after_attempt == evidence.attempt:
        reason = "held" if evidence.ticket.hold else "waiting"
        device = "" if evidence.ticket.device == DEFAULT_DEVICE else f" on {evidence.ticket.device}"
        message = evidence.ticket.note or f"Waiting for a free slot{device}."
        return RunState(_S.QUEUED, reason, message, next_step=NextStep.START_NOW)
    if evidence.outcome and evidence.outcome.attempt == evidence.attempt:
        return _judge_outcome(evidence.outcome)
    if not evidence.attempt:
        return RunState(_S.CREATED, "new", "Nothing has been started yet.", next_step=NextStep.START)
    return _judge_lost(evidence)


def _judge_live(evidence: Evidence) -> RunState:
    state = _judge_stage(evidence)
    if evidence.health.is_responding:
        return state
    reason = state.reason if state.status is _S.STOPPING else NOT_RESPONDING
    message, way_out = _not_responding(evidence)
    if not evidence.own_process:
        return RunState(state.status, reason, message, way_out, NextStep.END)
    end = f"To go on from its newest checkpoint, end it in its own terminal (process {evidence.pid})."
    return RunState(state.status, reason, message, f"{way_out} {end}")


def _judge_stage(evidence: Evidence) -> RunState:
    if evidence.stop is not None:
        return RunState(
            _S.STOPPING, evidence.stop, "Saving a checkpoint, then stopping.", "Wait for it to end."
        )
    if evidence.reported:
        return RunState(_S.RUNNING, "training", "Training is under way.", next_step=NextStep.WATCH)
    return RunState(_S.STARTING, "starting", "The trainer is starting.", next_step=NextStep.WATCH)


def _not_responding(evidence: Evidence) -> tuple[str, str]:
    """Return the message about a live trainer without signs of life, and what to do before it is ended."""
    if evidence.health.is_suspended:
        message = f"Not responding: its process {evidence.pid} is suspended."
        return message, f"Let it go on with: kill -CONT {evidence.pid}."
    minutes = evidence.health.silent_seconds / 60
    message = f"Not responding: it has written nothing for {minutes:,.0f} minutes and may hang."
    return message, "Its last words are in train.log."


def _judge_outcome(outcome: Outcome) -> RunState:
    """Return the state after an attempt that wrote an outcome."""
    next_step = _AFTER.get(outcome.code, None if outcome.remedy else NextStep.RESUME)
    if outcome.status is _S.FINISHED:
        return RunState(
            _S.FINISHED, outcome.code, outcome.message, outcome.remedy or "Try its answers, or export it."
        )
    return RunState(outcome.status, outcome.code, outcome.message, outcome.remedy, next_step)


_AFTER: Mapping[str, NextStep] = MappingProxyType(
    {
        "non-finite-loss": NextStep.EXPLAIN,
        "non-finite-gradient": NextStep.EXPLAIN,
        "out-of-memory": NextStep.COMPUTE_LESS,
    }
)
"""What helps after a failure that would come again where the run only goes on."""


def _judge_lost(evidence: Evidence) -> RunState:
    """Return the state after an attempt that ended without an outcome."""
    end = evidence.end
    if end is None:
        reason, message = (
            ("lost", "The trainer vanished without a word.")
            if evidence.same_boot
            else ("rebooted", "The machine was restarted during training.")
        )
        return RunState(_S.INTERRUPTED, reason, message, next_step=NextStep.RESUME)
    status, reason = _S.INTERRUPTED if end.reason in LOST_REASONS else _S.FAILED, end.reason
    if end.reason == "stopped":
        status, reason = _S.STOPPED, evidence.stop or "stop-requested"
    return RunState(status, reason, end.describe(), next_step=NextStep.RESUME)
