"""``tunesmith runs``, the rest of it: stop, label, compare, explain, delete, import and export runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from backend.commands.options import AsJson, OneRun, RunsFolder, find_run, shown
from backend.commands.output import print_json, say
from backend.commands.phrases import what_to_do
from backend.commands.run_phrases import advice_lines, explanation_record, state_record
from backend.commands.runs import summary_record
from backend.commands.tables import table
from backend.errors import RunError
from backend.manager import process_manager
from backend.manager.bundle import BUNDLE_SUFFIX, bundle_parts, opened_bundle, write_bundle
from backend.manager.explain import Explanation
from backend.manager.explain import explain as explain_run
from backend.manager.run_manager import Comparison, RunManager
from backend.manager.run_summary import Labels, summarise, what_goes
from backend.manager.scalars import duration
from backend.manager.system_manager import folder_bytes
from backend.run.folder import RunDir
from backend.run.pace import patience
from backend.run.reports import RunState

Wait = Annotated[
    float | None,
    Parameter(
        validator=validators.Number(gte=0, lte=7 * 86400),
        help="Seconds to wait for its checkpoint; left out: as long as its own steps suggest.",
    ),
]


def _manager_of(run: RunDir) -> RunManager:

    return RunManager(run.path.parent)


def stop(
    run: OneRun,
    *,
    now: Annotated[bool, Parameter(negative=(), help="End it at once, without a checkpoint.")] = False,
    wait: Wait = None,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Let a run save a checkpoint and stop. Nothing is deleted; `runs resume` goes on.

    Examples
    --------
    tunesmith runs stop RUN

    tunesmith runs stop RUN --wait 600
    """
    found = find_run(runs, run)
    if now:
        return _print_state(found, process_manager.kill(found), as_json)
    _say_what_it_waits_for(found, "stops", wait, as_json)
    return _print_state(found, process_manager.stop(found, wait_seconds=wait), as_json)


def pause(run: OneRun, *, wait: Wait = None, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """Stop a run that is meant to go on later; the reason is kept with it.

    Example
    -------
    tunesmith runs pause RUN
    """
    found = find_run(runs, run)
    _say_what_it_waits_for(found, "pauses", wait, as_json)
    return _print_state(found, process_manager.pause(found, wait_seconds=wait), as_json)


def _say_what_it_waits_for(run: RunDir, does: str, wait: float | None, as_json: bool) -> None:
    """Say what the command is about to do and how long that may take; nothing for a run that is over."""
    if as_json or not run.is_held():
        return

    attempt = run.look()[1].attempt
    own = attempt is not None and attempt.is_own_process
    allowed = patience(run, attempt)
    seconds, why = (allowed.seconds, f", since {allowed.why}") if wait is None else (wait, "")
    after = "it is left to itself then" if own else "it is ended without a checkpoint then"
    say(f"{run.id} saves a checkpoint and {does} …")
    say(f"  It has {duration(seconds)} for that{why}; {after}.")
    sys.stdout.flush()


def _print_state(run: RunDir, state: RunState, as_json: bool) -> int:
    if as_json:
        print_json({"run": run.id, "path": run.path, **state_record(run.id, vars(state))})
    else:
        say(f"{str(state.status).capitalize()}: {state.message}")
        say(f"  {what_to_do(state.remedy, state.next_step, shown(run))}")
    return 0


def rename(run: OneRun, name: str, *, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """Give a run a name to call it by; its id and folder stay. An empty name takes it away.

    Example
    -------
    tunesmith runs rename RUN "rank 8, second try"
    """
    found = find_run(runs, run)
    return _print_labels(found, _manager_of(found).rename(found.id, name), as_json)


def tag(
    run: OneRun,
    *add: Annotated[str, Parameter(help="Tags to add.")],
    remove: Annotated[tuple[str, ...], Parameter(help="A tag to take away; may be given again.")] = (),
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Add tags to a run or take them away; without any, show them.

    Example
    -------
    tunesmith runs tag RUN baseline food --remove draft
    """
    found = find_run(runs, run)
    return _print_labels(found, _manager_of(found).tag(found.id, add=add, remove=remove), as_json)


def note(run: OneRun, text: str, *, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """Write down what a run is about; replaces the note it has.

    Example
    -------
    tunesmith runs note RUN "same data, half the learning rate"
    """
    found = find_run(runs, run)
    return _print_labels(found, _manager_of(found).note(found.id, text), as_json)


def archive(
    run: OneRun,
    *,
    undo: Annotated[bool, Parameter(negative=(), help="Show it in listings again.")] = False,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Leave a run out of listings; nothing is moved or deleted.

    Example
    -------
    tunesmith runs archive RUN
    """
    found = find_run(runs, run)
    return _print_labels(found, _manager_of(found).archive(found.id, archived=not undo), as_json)


def _print_labels(run: RunDir, labels: Labels, as_json: bool) -> int:
    if as_json:
        print_json({"run": run.id, **vars(labels)})
        return 0
    say(run.id)
    say(f"  name  {labels.name or 'none'}")
    say(f"  tags  {' '.join(labels.tags) or 'none'}")
    say(f"  note  {labels.note or 'none'}")
    if labels.archived:
        say("  archived: `tunesmith runs list --archived` shows it")
    return 0


def compare(
    first: OneRun, second: OneRun, *more: OneRun, runs: RunsFolder = Path("runs"), as_json: AsJson = False
) -> int:
    """Runs side by side: where they stand, their losses, and the settings that differ.

    Example
    -------
    tunesmith runs compare RUN OTHER
    """
    found = [find_run(runs, name) for name in (first, second, *more)]
    comparison = _manager_of(found[0]).compare([str(run.path) for run in found])
    if as_json:
        print_json(
            {"runs": [summary_record(one) for one in comparison.runs], "settings": comparison.settings}
        )
    else:
        _print_comparison(comparison)
    return 0


def _print_comparison(comparison: Comparison) -> None:
    runs = comparison.runs
    facts: dict[str, list[str]] = {
        "status": [str(one.status) for one in runs],
        "step": [f"{one.step}/{one.total_steps}" for one in runs],
        "loss": [_figure(one.loss) for one in runs],
        "held-out loss": [_figure(one.eval_loss) for one in runs],
    }
    differing = {name: [_setting(value) for value in values] for name, values in comparison.settings.items()}
    table(["", *(one.title for one in runs)], [(name, *cells) for name, cells in (facts | differing).items()])
    if not differing:
        say("Their settings are the same.")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _setting(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def explain(run: OneRun, *, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """What happened to a run, which rows were in the batch, and what to do.

    Example
    -------
    tunesmith runs explain RUN
    """
    found = find_run(runs, run)
    explanation = explain_run(found)
    if as_json:
        print_json(explanation_record(found, explanation))
    else:
        _print_explanation(found, explanation)
    return 0


def _print_explanation(run: RunDir, explanation: Explanation) -> None:
    reason = f" ({explanation.reason})" if explanation.reason else ""
    say(f"{explanation.run} is {explanation.status}{reason}.\n{explanation.headline}")
    say("\nWhat is known")
    for finding in explanation.findings:
        say(f"  · {finding}")
    if explanation.last_steps:
        rows = [
            (
                str(s.step),
                f"{s.loss:.4f}",
                f"{s.grad_norm:.3g}",
                f"{s.learning_rate:.3g}",
                ", ".join(s.rows[:4]),
            )
            for s in explanation.last_steps
        ]
        say()
        table(["step", "loss", "gradient", "rate", "rows (first four)"], rows, title="The last steps")
    say("\nWhat to do")
    for line in advice_lines(run, explanation):
        say(f"  · {line}")


def delete(
    run: OneRun,
    *,
    yes: Annotated[bool, Parameter(negative=(), help="Do not ask; needs the whole id.")] = False,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Delete a run for good, after asking.

    Example
    -------
    tunesmith runs delete RUN
    """
    found = find_run(runs, run)
    _manager_of(found).require_unneeded(found)
    if (yes or as_json) and Path(run).name != found.id:
        raise RunError(
            f"{run!r} is not the whole id of {found.id}; nothing was deleted.",
            remedy="Without a question only a whole id will do.",
            code="not-whole-id",
        )
    if as_json and not yes:
        raise RunError("Nothing was deleted.", remedy="With --json, say --yes as well.", code="not-confirmed")
    if not yes and not _confirmed(found):
        say("Nothing was deleted.")
        return 0
    _manager_of(found).delete(found.id)
    if as_json:
        print_json({"deleted": found.id, "path": found.path})
    else:
        say(f"Deleted {found.id}.")
    return 0


def _confirmed(run: RunDir) -> bool:

    summary = summarise(run)
    steps = f", step {summary.step} of {summary.total_steps}" if summary.total_steps else ""
    say(f"This deletes {run.path} for good:")
    say(f"  {summary.title}: {summary.status}{steps}, {folder_bytes(run.path) / 1e6:,.1f} MB")
    say(f"  with its {', '.join(what_goes(run))}")
    sys.stdout.write("Delete it? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def import_(source: Path, *, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """Copy a run from elsewhere into the runs: its folder, or a bundle that `runs export-bundle` wrote.

    Example
    -------
    tunesmith runs import /mnt/elsewhere/runs/20260101-120000-food-ab12
    """
    manager = RunManager(runs)
    if source.is_file():
        with opened_bundle(source, manager.root) as folder:
            made = manager.import_folder(folder)
    else:
        made = manager.import_folder(source)
    state = made.state()
    if as_json:
        print_json({"run": made.id, "path": made.path, "status": str(state.status)})
    else:
        say(f"Imported {made.id} ({state.status}). See it with: tunesmith runs show {shown(made)}")
    return 0


def export_bundle(
    run: OneRun,
    *,
    out: Annotated[Path | None, Parameter(help="The file to write; RUN.tar.gz here if left out.")] = None,
    checkpoints: Annotated[bool, Parameter(negative=(), help="Put the checkpoints in as well.")] = False,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Write a run as one file to send: configuration, environment, curves, samples, outcome and result.

    Example
    -------
    tunesmith runs export-bundle RUN --out run.tar.gz
    """
    found = find_run(runs, run)
    parts = [part.name for part in bundle_parts(found, checkpoints=checkpoints)]
    written = write_bundle(found, out or Path(f"{found.id}{BUNDLE_SUFFIX}"), checkpoints=checkpoints)
    size = written.stat().st_size
    if as_json:
        print_json({"run": found.id, "bundle": written.absolute(), "bytes": size, "parts": parts})
    else:
        say(f"Wrote {written} ({size / 1e6:,.1f} MB): {', '.join(parts)}")
        say(f"  tunesmith runs import {written.name}   reads it on another machine")
    return 0
