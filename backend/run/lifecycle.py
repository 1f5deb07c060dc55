"""The life of a run, written down once: what its state is, and which event may follow which state.

``derive`` reads the evidence that a run folder holds; nothing ever stores a status. ``TRANSITIONS`` is the
table that docs/lifecycle.md draws; ``require`` refuses every event that the table lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from backend.errors import RunError
from backend.run.pace import RESPONDING, Health
from backend.run.reports import DEFAULT_DEVICE, AttemptEnd, Outcome, QueueTicket, RunState, RunStatus

LOST_REASONS = frozenset({"killed", "terminated", "stop-forced", "ended-at-once", "crash-loop"})
"""Ends of an attempt that say nothing against the run itself: it is interrupted, not failed."""


NOT_RESPONDING = "not-responding"
"""The reason of a live run whose trainer is suspended or silent for longer than its steps explain."""


class Event(StrEnum):
    """What can happen to a run: the first five are asked for by a person, the others are observed."""

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
    """The states that may follow. Raises RunError (``illegal-transition``) when ``event`` may not happen now."""
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
    """All that a run folder says about where its run stands.

    ``held``: a process holds the lock. ``stop``: why a stop was asked for, while that counts. ``attempt``: the number
    of the latest attempt, 0 before the first; ``end``: how its process ended. ``reported``: its trainer has written
    something. ``same_boot``: it began on this boot of the machine. ``health``, ``pid`` and ``own_process`` (a command
    or script of the person's own) are those of a live trainer.
    """

    run: str
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
    """The state of a run from the evidence. The lock comes first, since it cannot lie; damage comes next."""
    status, reason, message, action = _judge(evidence)
    return RunState(status, reason, message, action, attempt=evidence.attempt, damage=evidence.damage)


def _judge(evidence: Evidence) -> tuple[RunStatus, str, str, str]:
    run, outcome = evidence.run, evidence.outcome
    resume = f"Resume it with: tunesmith runs resume {run}"
    if evidence.held:
        return _judge_live(evidence, run)
    if evidence.damage:
        remedy = f"Nothing was deleted. Resume to go on from the newest good checkpoint: tunesmith runs resume {run}"
        return _S.FAILED, "damaged", f"The run folder is damaged: {evidence.damage}.", remedy
    if evidence.ticket and evidence.ticket.after_attempt == evidence.attempt:
        reason = "held" if evidence.ticket.hold else "waiting"
        device = "" if evidence.ticket.device == DEFAULT_DEVICE else f" on {evidence.ticket.device}"
        message = evidence.ticket.note or f"Waiting for a free slot{device}."
        return _S.QUEUED, reason, message, f"Start it now with: tunesmith runs resume {run}"
    if outcome and outcome.attempt == evidence.attempt:
        return outcome.status, outcome.code, outcome.message, outcome.remedy or _after(outcome.status, resume)
    if not evidence.attempt:
        return (
            _S.CREATED,
            "new",
            "Nothing has been started yet.",
            f"Start it with: tunesmith runs resume {run}",
        )
    return _judge_lost(evidence, resume)


def _judge_live(evidence: Evidence, run: str) -> tuple[RunStatus, str, str, str]:
    status, reason, message, action = _judge_stage(evidence, run)
    if evidence.health.is_responding:
        return status, reason, message, action
    message, action = _not_responding(evidence, run)
    return status, reason if status is _S.STOPPING else NOT_RESPONDING, message, action


def _judge_stage(evidence: Evidence, run: str) -> tuple[RunStatus, str, str, str]:
    if evidence.stop is not None:
        return _S.STOPPING, evidence.stop, "Saving a checkpoint, then stopping.", "Wait for it to end."
    watch = f"Watch it with: tunesmith runs watch {run}"
    if evidence.reported:
        return _S.RUNNING, "training", "Training is under way.", watch
    return _S.STARTING, "starting", "The trainer is starting.", watch


def _not_responding(evidence: Evidence, run: str) -> tuple[str, str]:
    """What is said of a live trainer without signs of life, and the way out."""
    end = (
        f"end it in its own terminal (process {evidence.pid})"
        if evidence.own_process
        else f"end it with: tunesmith runs stop {run} --now"
    )
    if evidence.health.is_suspended:
        message = f"Not responding: its process {evidence.pid} is suspended."
        return message, f"Let it go on with: kill -CONT {evidence.pid}. Or {end}"
    minutes = evidence.health.silent_seconds / 60
    message = f"Not responding: it has written nothing for {minutes:,.0f} minutes and may hang."
    return message, f"Its last words are in train.log. To go on from its newest checkpoint, {end}"


def _after(status: RunStatus, resume: str) -> str:
    return "Try its answers, or export it." if status is _S.FINISHED else resume


def _judge_lost(evidence: Evidence, resume: str) -> tuple[RunStatus, str, str, str]:
    """An attempt that began, is over, and left no outcome."""
    end = evidence.end
    if end is None and not evidence.same_boot:
        return _S.INTERRUPTED, "rebooted", "The machine was restarted during training.", resume
    if end is None:
        return _S.INTERRUPTED, "lost", "The trainer vanished without a word.", resume
    if end.reason == "stopped":
        return _S.STOPPED, evidence.stop or "stop-requested", end.describe(), resume
    status = _S.INTERRUPTED if end.reason in LOST_REASONS else _S.FAILED
    return status, end.reason, end.describe(), resume
