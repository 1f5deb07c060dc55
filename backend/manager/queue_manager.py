"""Decide which queued run starts next. Every process that looks at the queue, or ends a run, does so under one lock.

A run's place in the queue is the ticket in its own folder, so a queue survives a reboot. See also ``queue_watch``.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from backend.errors import NextStep, RunError, TunesmithError
from backend.manager import process_manager
from backend.run.folder import RunDir
from backend.run.lifecycle import Event
from backend.run.locks import gone
from backend.run.records import utc_now
from backend.run.reports import DEFAULT_DEVICE, QueueTicket, RunStatus
from backend.run.root import QUEUE_SLOTS
from backend.utils.file_utils import read_json_object, write_json_durably
from backend.utils.lock_utils import hold_lock

_LOCK = ".queue.lock"
_PATIENCE_SECONDS = 60.0
DEFAULT_SLOTS: Mapping[str, int] = {DEFAULT_DEVICE: 1}

Starter = Callable[[RunDir], object]


class QueueManager:
    """The queue of the runs under ``root``; ``starter`` starts one of them in the background."""

    def __init__(self, root: Path, starter: Starter = process_manager.start) -> None:
        self.root = root.absolute()
        self._starter = starter

    def enqueue(
        self, run: RunDir, *, priority: int = 0, device: str = DEFAULT_DEVICE, hold: bool = False
    ) -> QueueTicket:
        """Put a run at the end of the queue.

        Raises RunError when it lives, has finished, waits already or is gone, and ``no-such-device`` for a device
        that has no slots, on which it would wait for ever.
        """
        run.require(Event.QUEUE)
        if device not in self.slots():
            raise self._no_slots(device)
        try:
            with hold_lock(self.root / _LOCK, wait_seconds=_PATIENCE_SECONDS):
                last = max((ticket.position for _, ticket in self.waiting()), default=0.0)
                ticket = QueueTicket(utc_now(), run.latest_attempt_number(), last + 1, priority, device, hold)
                run.write_ticket(ticket)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise gone(run.id) from error
        return ticket

    def _no_slots(self, device: str) -> RunError:
        known = list(self.slots())
        near = difflib.get_close_matches(device, known, n=1)
        meant = f"Did you mean {near[0]}? Else give" if near else "Give"
        return RunError(
            f"No run can start on the device {device!r}: it has no slots.",
            remedy=f"{meant} one of {', '.join(known)}, or make slots.",
            code="no-such-device",
            next_step=NextStep.MAKE_SLOTS,
            about=device,
        )

    def waiting(self) -> list[tuple[RunDir, QueueTicket]]:
        """The queue in the order in which it will start, held ones included."""
        with_ticket = [run for run in RunDir.all_under(self.root) if run.ticket_file.exists()]
        found = [(run, ticket) for run in with_ticket if (ticket := _waiting_with(run))]
        return sorted(found, key=lambda item: (-item[1].priority, item[1].position, item[0].id))

    def moves(self) -> bool:
        """Return whether a run waits that can start once another one ends."""
        slots = self.slots()
        return any(not ticket.hold and slots.get(ticket.device, 0) > 0 for _, ticket in self.waiting())

    def leave(self, run: RunDir) -> None:
        """Take a run out of the queue. Raises RunError when it is not in it."""
        run.require(Event.UNQUEUE)
        run.drop_ticket()

    def change(
        self,
        run: RunDir,
        *,
        hold: bool | None = None,
        priority: int | None = None,
        before: RunDir | None = None,
    ) -> QueueTicket:
        """Hold or release a waiting run, change its priority, or move it before another. Raises RunError."""
        run.require(Event.UNQUEUE)
        with hold_lock(self.root / _LOCK, wait_seconds=_PATIENCE_SECONDS):
            ticket = _ticket(run)
            if before:
                ticket = self._before(ticket, run, before)
            ticket = replace(
                ticket,
                hold=ticket.hold if hold is None else hold,
                priority=ticket.priority if priority is None else priority,
                note="" if hold is False else ticket.note,
            )
            run.write_ticket(ticket)
        return ticket

    def _before(self, ticket: QueueTicket, run: RunDir, other: RunDir) -> QueueTicket:
        """The ticket with a position between ``other`` and whoever stands before it."""
        behind = _ticket(other)
        ahead = [
            item.position
            for found, item in self.waiting()
            if item.priority == behind.priority and item.position < behind.position and found != run
        ]
        position = (max(ahead) + behind.position) / 2 if ahead else behind.position - 1
        return replace(ticket, position=position, priority=behind.priority)

    def slots(self) -> dict[str, int]:
        """Return how many runs may train at a time on each device; ``default`` is one unless set."""
        try:
            stored = read_json_object(self.root / QUEUE_SLOTS)
        except (OSError, ValueError):
            stored = {}
        counts = {name: count for name, count in stored.items() if isinstance(count, int) and count >= 0}
        return {**DEFAULT_SLOTS, **counts}

    def set_slots(self, device: str, count: int) -> None:
        """Let ``count`` runs train at a time on ``device``. Raises RunError for a negative count."""
        if count < 0:
            raise RunError(f"{count} slots are not possible.", remedy="Give 0 or more.", code="bad-slots")
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with hold_lock(self.root / _LOCK, wait_seconds=_PATIENCE_SECONDS):
            write_json_durably(self.root / QUEUE_SLOTS, {**self.slots(), device: count})

    def schedule(self) -> list[RunDir]:
        """Start whatever has its turn and a free slot; the started runs come back. Two schedulers never collide.

        A run that cannot be started is held, with the reason on its ticket, and the next one has its turn. One for
        a device without slots is told so on its ticket.
        """
        started: list[RunDir] = []
        if not self.waiting():
            return started
        with hold_lock(self.root / _LOCK, wait_seconds=_PATIENCE_SECONDS):
            free = self._free_slots()
            for run, ticket in self.waiting():
                if ticket.hold:
                    continue
                if ticket.device not in free:
                    _put_back(run, replace(ticket, note=str(self._no_slots(ticket.device))))
                elif free[ticket.device] > 0 and self._start(run, ticket):
                    free[ticket.device] -= 1
                    started.append(run)
        return started

    def _start(self, run: RunDir, ticket: QueueTicket) -> bool:
        try:
            self._starter(run)
        except (TunesmithError, OSError) as error:
            _put_back(run, replace(ticket, hold=True, note=str(error)))
            return False
        return True

    def at_work(self) -> list[RunDir]:
        """The runs that something works on now, queued before or not."""
        return [run for run in RunDir.all_under(self.root) if _is_held(run)]

    def _free_slots(self) -> dict[str, int]:
        free = self.slots()
        for run in self.at_work():
            device = _device_of(run)
            if device in free:
                free[device] -= 1
        return free


def _waiting_with(run: RunDir) -> QueueTicket | None:
    """The run's ticket while it waits; None for a run that cannot be read, which must not stand in another's way."""
    try:
        return run.read_ticket() if run.status() is RunStatus.QUEUED else None
    except (RunError, OSError):
        return None


def _put_back(run: RunDir, ticket: QueueTicket) -> None:
    """Change the ticket of a run that still waits; where its folder refuses that, it stays as it is."""
    with contextlib.suppress(OSError, RunError):
        if run.status() is RunStatus.QUEUED and run.read_ticket() != ticket:
            run.write_ticket(ticket)


def _is_held(run: RunDir) -> bool:
    try:
        return run.is_held()
    except OSError:  # nobody of ours holds a lock that cannot be opened
        return False


def _device_of(run: RunDir) -> str:
    """The device that a live run takes a slot of; the default one where its record is damaged or not written yet."""
    try:
        attempt = run.latest_attempt()
    except RunError:
        attempt = None
    return attempt.device if attempt else DEFAULT_DEVICE


def _ticket(run: RunDir) -> QueueTicket:
    ticket = run.read_ticket()
    if ticket is None:
        raise RunError(f"The run {run.id} is not in the queue.", remedy="Queue it first.", code="not-queued")
    return ticket
