"""What several commands share: the options that name runs, and how a run is found and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from backend.run_dir import RunDir
from backend.run_root import LATEST, created

Rows = Annotated[str, Parameter(help="Rows: a file, folder, pattern, archive or hub id, as data.train.")]
RunsFolder = Annotated[Path, Parameter(help="Folder that holds the runs.")]
AsJson = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object instead of text.")]
Checkpoint = Annotated[
    str | None, Parameter(help="A checkpoint of the run instead of its result: a step, best or latest.")
]
BaseModel = Annotated[
    str | None,
    Parameter(help="Where the base model of the run lies now, if it was moved; another model is refused."),
]
OneRun = Annotated[str, Parameter(help="A run's folder, its id or its beginning, its name, or latest.")]


def find_run(runs: Path, name: str) -> RunDir:
    """The run a person means: a folder, an id or its beginning, a given name, or ``latest``. Raises RunError."""
    from backend.manager.run_manager import RunManager  # noqa: PLC0415

    if name == LATEST and not Path(name).exists():
        newest = RunDir.all_under(runs)
        if newest:
            return max(newest, key=lambda run: (created(run.path), run.id))
    return RunManager(runs).find(name)


def shown(run: RunDir) -> str:
    """The shortest way to name the run on a command line: its id where it lies in ./runs."""
    return run.id if run.path.parent == Path("runs").absolute() else str(run.path)
