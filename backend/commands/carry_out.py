"""Train a run: in this process with progress on the screen, or in one of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from backend.commands import lazy
from backend.commands.options import shown
from backend.commands.output import NOTHING, print_json, say, say_to_nobody
from backend.commands.progress import ProgressView
from backend.commands.run_phrases import next_action, outcome_record
from backend.manager import process_manager
from backend.manager.alerts import Alert, AlertSettings, send
from backend.manager.explain import way_back
from backend.manager.queue_manager import QueueManager
from backend.manager.queue_watch import move_on
from backend.manager.ranks import nproc_per_node, torchrun_command
from backend.run.folder import RunDir
from backend.run.outcomes import exit_code
from backend.run.reports import Outcome, RunStatus
from backend.utils.jsonl_utils import last_records


def start_detached(run: RunDir, *, as_json: bool, also: Mapping[str, Any] = NOTHING) -> int:
    """Train the run in a process of its own that outlives this one; says how to watch and stop it.

    ``also`` is what its JSON holds besides.
    """
    by_hand = torchrun_command(run)
    if by_hand:
        return _hand_over(run, by_hand, as_json=as_json, also=also)
    state = process_manager.start(run)
    if as_json:
        where = {"status": str(state.status), "attempt": state.attempt}
        print_json({"run": run.id, "path": run.path, **where, **also})
        return 0
    say(f"Run {run.id} trains in the background\n  in {run.path}")
    say(f"  tunesmith runs watch {shown(run)}   curve, time left and log, live")
    say(f"  tunesmith runs stop {shown(run)}    save a checkpoint and stop")
    return 0


def _hand_over(run: RunDir, command: str, *, as_json: bool, also: Mapping[str, Any]) -> int:
    """A run of several machines is made here and started by who has them; says how, with ``also`` as JSON."""
    if as_json:
        where = {"status": str(run.status()), "torchrun": command}
        print_json({"run": run.id, "path": run.path, **where, **also})
        return 0
    say(f"Run {run.id} is ready\n  in {run.path}")
    say("Type on each machine, with the first one's address; all must see that folder under that path:")
    say(f"  {command}")
    return 0


def carry_out(run: RunDir, *, as_json: bool, also: Mapping[str, Any] = NOTHING) -> int:
    """Train the run in this process with progress on the screen; returns the exit code.

    A run of several processes trains in the background: somebody must start and watch them. ``also`` is what its
    JSON holds besides.
    """
    if nproc_per_node(run) > 1 or torchrun_command(run):
        return start_detached(run, as_json=as_json, also=also)
    if not as_json:
        say(f"Run {run.id}\n  in {run.path}")
    outcome = train_here(run, quiet=as_json)
    try:
        if as_json:
            print_json({"run": run.id, "path": run.path, **outcome_record(run, outcome), **also})
        else:
            _print_outcome(run, outcome)
        sys.stdout.flush()
    except BrokenPipeError:  # the exit code still says how the run ended
        say_to_nobody()
    return exit_code(outcome)


def _print_outcome(run: RunDir, outcome: Outcome) -> None:

    say(f"{str(outcome.status).capitalize()}: {outcome.message}")
    state = run.state()
    if outcome.status is RunStatus.FINISHED:
        say(f"  result  {outcome.result}")
    if outcome.status is not RunStatus.FINISHED or way_back(run, state):
        say(f"  {next_action(run, state)}")
    else:
        say("Next:")
        if any(last_records(run.samples_file)):  # held-out rows that ask something, which can be scored
            say(f"  tunesmith evaluate {shown(run)}   base and tuned side by side on the held-out rows")
        say(f"  tunesmith chat {shown(run)}")


def train_here(run: RunDir, *, quiet: bool) -> Outcome:
    """Train the run in this process with progress on the screen unless ``quiet``; return how it ended."""
    with ProgressView(quiet=quiet) as view:
        outcome = lazy.trainer_main.run(run, view)
    after_run(run)
    return outcome


def after_run(run: RunDir) -> None:
    """Do what follows a run that trained in this process: let the queue use its slot, and send the alerts.

    What goes wrong with that goes to standard error.
    """
    try:
        move_on(QueueManager(run.path.parent))
    except OSError as error:
        sys.stderr.write(f"The queue in {run.path.parent} could not be moved on: {error}\n")
    for problem in send(Alert.about(run.id, run.state()), AlertSettings.from_environ(os.environ)):
        sys.stderr.write(problem + "\n")
