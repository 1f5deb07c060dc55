"""``tunesmith runs``: look at runs and carry them on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from backend.commands.options import AsJson, OneRun, RunsFolder, find_run
from backend.commands.output import print_json, say, table
from backend.commands.train import Detach, carry_out, start_detached
from backend.errors import RunError
from backend.run.folder import RunDir
from backend.run.lifecycle import NOT_RESPONDING
from backend.run.reports import RunStatus

if TYPE_CHECKING:
    from backend.manager.run_summary import RunSummary

app = App(name="runs", help="Look at runs, steer them and carry them on.")


@app.command(name="list")
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
    from backend.manager.run_manager import RunManager  # noqa: PLC0415

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
    rows = [
        (
            s.id,
            *([" ".join(filter(None, [s.labels.name, *(f"#{tag}" for tag in s.labels.tags)]))] * labelled),
            _standing(s),
            f"{s.step}/{s.total_steps}" if s.total_steps else "",
            _loss(s.loss),
            _loss(s.eval_loss),
        )
        for s in found
    ]
    table(
        ["run", *["name"] * labelled, "status", "step", "loss", "held-out loss"],
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
    from dataclasses import asdict  # noqa: PLC0415

    record = asdict(summary)
    return {**record, "path": str(record["path"]), "status": str(record["status"])}


@app.command
def show(run: OneRun, *, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """One run: where it stands, why, and what to do next.

    Example
    -------
    tunesmith runs show RUN --json
    """
    from backend.manager.explain import next_action  # noqa: PLC0415
    from backend.manager.run_summary import summarise  # noqa: PLC0415

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


@app.command
def resume(
    run: OneRun,
    *,
    detach: Detach = False,
    skip_rows: Annotated[
        str,
        Parameter(help="Branch without the rows in these places, such as train.jsonl:12,train.jsonl:40."),
    ] = "",
    lower_lr: Annotated[
        float | None, Parameter(help="Branch with the learning rate times this factor, such as 0.5.")
    ] = None,
    from_step: Annotated[
        int | None, Parameter(help="Branch from the checkpoint of this step, not the newest good one.")
    ] = None,
    micro_batch_tokens: Annotated[
        int | None,
        Parameter(
            name="--training.micro_batch_tokens",
            help="Branch with so many tokens computed at once: fewer need less memory and change rounding only.",
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        Parameter(help="Branch over the base model at this place, where it was moved; another is refused."),
    ] = None,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Go on with a run from its newest good checkpoint; on the same kind of machine bit for bit as if never stopped.

    With any of the settings above a new run branches off there, and this one stays as it is.

    Examples
    --------
    tunesmith runs resume RUN

    tunesmith runs resume RUN --lower-lr 0.5 --skip-rows train.jsonl:12,train.jsonl:40

    tunesmith runs resume RUN --training.micro_batch_tokens 512
    """
    from backend.manager.alerts import check_environ  # noqa: PLC0415

    check_environ(os.environ)
    found = find_run(runs, run)
    places = [place.strip() for place in skip_rows.split(",") if place.strip()]
    changes: dict[str, Any] = {
        "skip_rows": places,
        "rate_factor": lower_lr,
        "micro_batch_tokens": micro_batch_tokens,
        "base_model": base_model,
    }
    if from_step is not None or any(value not in (None, []) for value in changes.values()):
        found = _branch(found, changes, from_step, as_json=as_json)
    return start_detached(found, as_json=as_json) if detach else carry_out(found, as_json=as_json)


def _branch(run: RunDir, changes: Mapping[str, Any], from_step: int | None, *, as_json: bool) -> RunDir:
    """A new run off ``run``; its note says where it comes from. ``changes`` are those of ``changed_config``."""
    from backend.manager.run_manager import RunManager  # noqa: PLC0415
    from backend.training.branching import branch, changed_config  # noqa: PLC0415 - torch loads here
    from backend.training.inputs import read_inputs  # noqa: PLC0415

    config = changed_config(run, **changes)
    read_inputs(config)  # what the data check says of these rows was settled when the first run began
    made = branch(run, config, from_step=from_step)
    what = {
        "rate_factor": f"learning rate {config.training.learning_rate:g}" if changes["rate_factor"] else "",
        "skip_rows": f"without {', '.join(changes['skip_rows'])}",
        "micro_batch_tokens": f"{config.training.micro_batch_tokens} tokens at once",
        "base_model": f"over the base model in {config.model.model_name_or_path}",
    }
    told = "".join(f", {words}" for name, words in what.items() if changes[name])
    origin = f"Branched off {run.id} at step {made.step}{told}."
    RunManager(made.run.path.parent).note(made.run.id, origin)
    if not as_json:
        say(f"{origin} That run stays as it is.")
    return made.run
