"""``tunesmith runs``: look at runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from backend.commands.options import AsJson, OneRun, RunsFolder, find_run
from backend.commands.output import print_json, say
from backend.commands.run_phrases import next_action, state_record
from backend.commands.tables import table
from backend.errors import RunError
from backend.manager.run_manager import RunManager
from backend.manager.run_summary import RunSummary, summarise
from backend.run.folder import RunDir
from backend.run.lifecycle import NOT_RESPONDING
from backend.run.reports import RunStatus


def list_(
    *,
    status: Annotated[RunStatus | None, Parameter(help="Only runs that stand here.")] = None,
    text: Annotated[str, Parameter(help="Only runs with this in id, name, model, method or note.")] = "",
    tag: Annotated[str, Parameter(help="Only runs with this tag.")] = "",
    archived: Annotated[bool, Parameter(negative=(), help="Archived runs as well.")] = False,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """All runs, newest first.

    Examples
    --------
    tunesmith runs list

    tunesmith runs list --status failed --tag baseline
    """
    found = RunManager(runs).list(status=status, text=text, tag=tag, archived=archived)
    if as_json:
        print_json([summary_record(summary) for summary in found])
    elif not found and (status or text or tag):
        say(f"No run in {runs} is like that. See all with: tunesmith runs list --archived")
    elif not found:
        say(f"There are no runs in {runs} yet. Start one with: tunesmith train --data.train FILE")
    else:
        _print_list(found)
    return 0


def _print_list(found: Sequence[RunSummary]) -> None:
    """One line a run; names and tags have a column once there are any."""
    labelled = any(s.labels.name or s.labels.tags for s in found)
    differ = any(s.objective != "sft" for s in found)
    rows = [
        (
            s.id,
            *([s.objective] * differ),
            *([" ".join(filter(None, [s.labels.name, *(f"#{tag}" for tag in s.labels.tags)]))] * labelled),
            _standing(s),
            f"{s.step}/{s.total_steps}" if s.total_steps else "",
            _loss(s.loss),
            _loss(s.eval_loss),
        )
        for s in found
    ]
    table(
        ["run", *["method"] * differ, *["name"] * labelled, "status", "step", "loss", "held-out loss"],
        rows,
        whole=["run", "status", "step", "loss"],
        spare=["loss", "step"],
    )


def _standing(summary: RunSummary) -> str:
    """The status, with what a person must know about it at once."""
    also = "damaged" if summary.damage else "not responding" if summary.reason == NOT_RESPONDING else ""
    return f"{summary.status} ({also})" if also else str(summary.status)


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def summary_record(summary: RunSummary) -> dict[str, Any]:
    """A run's summary as plain values."""
    return {**state_record(summary.id, asdict(summary)), "path": str(summary.path)}


def show(run: OneRun, *, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """One run: where it stands, why, and what to do next.

    Example
    -------
    tunesmith runs show RUN --json
    """
    folder = find_run(runs, run)
    record = summary_record(summarise(folder)) | {"next_action": next_action(folder, folder.state())}
    record |= _machines(folder)
    result = folder.result_folder()
    if as_json:
        print_json({**record, "result": None if result is None else str(result)})
        return 0
    labels = record.pop("labels")
    changes = "\n                ".join(record.pop("changes"))
    shown = {**record, "changes": changes, "result": result, **labels, "tags": " ".join(labels["tags"])}
    for name, value in shown.items():
        if value not in ("", None, False):
            say(f"{name.replace('_', ' '):>14}  {f'{value:.4f}' if isinstance(value, float) else value}")
    return 0


def _machines(run: RunDir) -> dict[str, Any]:
    """What the run is computed on, and each change of it, from which on the bits may be others."""
    try:
        environment = run.read_environment()
    except RunError:  # a damaged record is told by the status
        return {"computed_on": "", "changes": []}
    plan = environment.plan
    how = f"{plan.dtype}, {plan.lanes} lane{'s' * (plan.lanes != 1)}" if plan else ""
    return {
        "computed_on": ", ".join(filter(None, [environment.processor, how])),
        "changes": [
            f"from step {change.step} on (attempt {change.attempt}): {change.what}"
            for change in environment.changes
        ],
    }
