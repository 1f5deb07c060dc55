"""``tunesmith runs queue``: which run trains next. Whoever looks at the queue also starts what has its turn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from backend.commands.options import AsJson, OneRun, RunsFolder, find_run, shown
from backend.commands.output import NOTHING, print_json, say
from backend.commands.phrases import what_to_do
from backend.commands.tables import table
from backend.manager.queue_manager import QueueManager
from backend.manager.queue_watch import move_on
from backend.run.folder import RunDir
from backend.run.reports import QueueTicket

queue = App(name="queue")

Priority = Annotated[int, Parameter(help="Higher ones start first.")]
Device = Annotated[str, Parameter(help="The queue's name for what the run trains on.")]


def _manager(root: Path) -> QueueManager:

    return QueueManager(root)


def _move_on(manager: QueueManager) -> list[RunDir]:

    return move_on(manager)


@queue.default
@queue.command(name="list")
def list_(*, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """The queue in the order in which it will start.

    Example
    -------
    tunesmith runs queue list
    """
    manager = _manager(runs)
    started = _move_on(manager)
    waiting = manager.waiting()
    if as_json:
        records = [_record(run, ticket) for run, ticket in waiting]
        print_json({"slots": manager.slots(), "waiting": records, "started": [run.id for run in started]})
        return 0
    for run in started:
        say(f"{run.id} had a free slot and trains now. Watch it with: tunesmith runs watch {shown(run)}")
    if started and not waiting:
        say("Nothing else waits.")
    elif not waiting:
        say("The queue is empty. Put a run into it with: tunesmith runs queue enqueue RUN")
    else:
        rows = [
            (
                str(place),
                run.id,
                str(ticket.priority),
                ticket.device,
                "held" if ticket.hold else "waiting",
                ticket.note,
            )
            for place, (run, ticket) in enumerate(waiting, start=1)
        ]
        table(["", "run", "priority", "device", "", "note"], rows, whole=["run"])
        say("Slots: " + ", ".join(f"{device} {count}" for device, count in manager.slots().items()))
    return 0


@queue.command
def enqueue(
    run: OneRun,
    *,
    priority: Priority = 0,
    device: Device = "default",
    hold: Annotated[bool, Parameter(negative=(), help="Keep it waiting until released.")] = False,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Put a run at the end of the queue; it starts as soon as a slot is free.

    Example
    -------
    tunesmith runs queue enqueue RUN --priority 5
    """
    found = find_run(runs, run)
    return put_into_queue(found, priority=priority, device=device, hold=hold, as_json=as_json)


def put_into_queue(
    run: RunDir,
    *,
    priority: int = 0,
    device: str = "default",
    hold: bool = False,
    as_json: bool,
    also: Mapping[str, Any] = NOTHING,
) -> int:
    """Queue a run, start whatever has its turn, and say where the run stands then, with ``also`` as JSON."""
    manager = _manager(run.path.parent)
    manager.enqueue(run, priority=priority, device=device, hold=hold)
    return _settle(manager, run, as_json=as_json, also=also)


@queue.command
def leave(run: OneRun, *, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """Take a run out of the queue.

    Example
    -------
    tunesmith runs queue leave RUN
    """
    found = find_run(runs, run)
    manager = _manager(found.path.parent)
    manager.leave(found)
    return _settle(manager, found, as_json=as_json)


@queue.command
def move(
    run: OneRun,
    *,
    before: Annotated[str, Parameter(help="The waiting run that it should start before.")],
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Let a waiting run start before another one.

    Example
    -------
    tunesmith runs queue move RUN --before OTHER
    """
    return _change(run, runs, as_json=as_json, before=find_run(runs, before))


@queue.command
def hold(run: OneRun, *, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """Keep a queued run waiting until it is released.

    Example
    -------
    tunesmith runs queue hold RUN
    """
    return _change(run, runs, as_json=as_json, hold=True)


@queue.command
def release(run: OneRun, *, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """Let a held run have its turn again.

    Example
    -------
    tunesmith runs queue release RUN
    """
    return _change(run, runs, as_json=as_json, hold=False)


@queue.command
def priority(
    run: OneRun, value: Priority, *, runs: RunsFolder = Path("runs"), as_json: AsJson = False
) -> int:
    """Change the priority of a queued run; higher ones start first.

    Example
    -------
    tunesmith runs queue priority RUN 10
    """
    return _change(run, runs, as_json=as_json, priority=value)


@queue.command
def slots(
    count: Annotated[int, Parameter(help="Runs that may train at a time.")],
    *,
    device: Device = "default",
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Let so many queued runs train at a time.

    Example
    -------
    tunesmith runs queue slots 2
    """
    manager = _manager(runs)
    manager.set_slots(device, count)
    _move_on(manager)
    if as_json:
        print_json({"slots": manager.slots()})
    else:
        say(f"{count} at a time on device {device}.")
    return 0


def _change(name: str, runs: Path, *, as_json: bool, **changes: Any) -> int:
    found = find_run(runs, name)
    manager = _manager(found.path.parent)
    manager.change(found, **changes)
    return _settle(manager, found, as_json=as_json)


def _settle(manager: QueueManager, run: RunDir, *, as_json: bool, also: Mapping[str, Any] = NOTHING) -> int:
    """Start what has its turn, then say where the run stands."""
    started = [found.id for found in _move_on(manager)]
    state = run.state()
    places = {found.id: number for number, (found, _) in enumerate(manager.waiting(), start=1)}
    if as_json:
        where = {"status": str(state.status), "reason": state.reason, "place": places.get(run.id)}
        print_json({"run": run.id, **where, "started": started, **also})
    elif run.id in places:
        say(f"{run.id} is number {places[run.id]} of {len(places)} in the queue. {state.message}")
        say("See the queue with: tunesmith runs queue list")
    elif run.id in started:
        say(f"{run.id} had a free slot and trains now. Watch it with: tunesmith runs watch {shown(run)}")
    else:
        say(f"{run.id} is {state.status}. {what_to_do(state.remedy, state.next_step, shown(run))}")
    return 0


def _record(run: RunDir, ticket: QueueTicket) -> dict[str, object]:
    return {"run": run.id, "path": run.path, **vars(ticket)}
