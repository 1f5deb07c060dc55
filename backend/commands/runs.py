"""``tunesmith runs``: look at runs and carry them on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from backend.commands.output import print_json, say, table
from backend.commands.train import AsJson, RunsFolder, carry_out, find_run

app = App(name="runs", help="Look at runs and carry them on.")

OneRun = Annotated[str, Parameter(help="A run's folder, its id or its beginning, or latest.")]


@app.command(name="list")
def list_(*, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """All runs, newest first.

    Example
    -------
    tunesmith runs list
    """
    from backend.manager.run_manager import RunManager  # noqa: PLC0415

    found = RunManager(runs).list()
    if as_json:
        print_json([summary_record(summary) for summary in found])
    elif not found:
        say(f"There are no runs in {runs} yet. Start one with: tunesmith train --data.train FILE")
    else:
        rows = [
            (s.id, str(s.status), f"{s.step}/{s.total_steps}", _loss(s.loss), _loss(s.eval_loss))
            for s in found
        ]
        table(["run", "status", "step", "loss", "held-out loss"], rows)
    return 0


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def summary_record(summary: Any) -> dict[str, Any]:
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
    from backend.manager.run_summary import summarise  # noqa: PLC0415

    folder = find_run(runs, run)
    record = summary_record(summarise(folder))
    if as_json:
        result = folder.result_folder()
        print_json({**record, "result": None if result is None else str(result)})
        return 0
    for name, value in record.items():
        if name != "labels" and value not in ("", None):
            say(f"{name.replace('_', ' '):>14}  {f'{value:.4f}' if isinstance(value, float) else value}")
    return 0


@app.command
def resume(run: OneRun, *, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """Go on with a run from its newest good checkpoint; bit for bit as if it had never stopped.

    Example
    -------
    tunesmith runs resume RUN
    """
    return carry_out(find_run(runs, run), as_json=as_json)
