"""What several commands share: the options that name runs, and how a run is found and shown."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from backend.manager.run_manager import RunManager
from backend.run.folder import RunDir
from backend.run.model_names import MODEL_ALIASES
from backend.run.root import LATEST, created
from backend.utils.path_utils import user_path

RunsFolder = Annotated[Path, Parameter(help="Folder that holds the runs.")]
AsJson = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object instead of text.")]
Checkpoint = Annotated[
    str | None, Parameter(help="A checkpoint of the run instead of its result: a step, best or latest.")
]
BaseModel = Annotated[
    str | None,
    Parameter(help="Where the base model of the run lies now, if it was moved; another model is refused."),
]
Precision = Annotated[
    Literal["exact", "fast"],
    Parameter(help="fast decodes with the weights in 8 bits; answers may differ in a few words."),
]
OneRun = Annotated[str, Parameter(help="A run's folder, its id or its beginning, its name, or latest.")]
Detach = Annotated[bool, Parameter(negative=(), help="Train in the background and return at once.")]
Accept = Annotated[
    tuple[str, ...],
    Parameter(
        negative=(),
        help="Train although this data check says STOP; may stand more than once. The run and its card name it.",
    ),
]
Settings = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]


def find_run(runs: Path, name: str) -> RunDir:
    """The run a person means: a folder, an id or its beginning, a given name, or ``latest``. Raises RunError."""
    if name == LATEST and not Path(name).exists():
        newest = RunDir.all_under(runs)
        if newest:
            return max(newest, key=lambda run: (created(run.path), run.id))
    return RunManager(runs).find(name)


def find_source(name: str, runs: Path) -> RunDir | str:
    """What a person means by a name: a run under ``runs`` or anywhere, else a model."""
    path = user_path(name)
    if name in MODEL_ALIASES or (path.exists() and not (path / "config.yaml").exists()):
        return name
    if "/" in name and not path.exists() and name.count("/") == 1 and not name.startswith((".", "~", "/")):
        return name
    return find_run(runs, name)


def shown(run: RunDir) -> str:
    """The shortest way to name the run on a command line, quoted for it: its id where it lies in ./runs."""
    return shlex.quote(run.id if run.path.parent == Path("runs").absolute() else str(run.path))
