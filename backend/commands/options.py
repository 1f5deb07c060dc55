"""What several commands share: the options that name runs, and how a run is found and shown."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from backend.run.folder import RunDir
from backend.run.root import LATEST, created

if TYPE_CHECKING:
    from backend.data.sources import ReadOptions

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
Columns = Annotated[
    dict[str, str] | None,
    Parameter(
        name=("--columns", "--data.columns"),
        help="Names of your columns by role: --columns.prompt question.",
    ),
]
OneRun = Annotated[str, Parameter(help="A run's folder, its id or its beginning, its name, or latest.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Reading:
    """Settings that say how a file is read, where it does not say so itself; named as those under ``data``."""

    encoding: Annotated[
        str | None,
        Parameter(name=("--encoding", "--data.encoding"), help="Encoding of text files, such as cp1252."),
    ] = None
    delimiter: Annotated[
        str | None,
        Parameter(
            name=("--delimiter", "--data.delimiter"), help="What separates the cells of a table, such as ;"
        ),
    ] = None
    sheet: Annotated[
        str | None, Parameter(name=("--sheet", "--data.sheet"), help="The sheet of a workbook to read.")
    ] = None
    whole_file: Annotated[
        bool,
        Parameter(
            name=("--whole-file", "--data.whole-file", "--data.whole_file"),
            negative=(),
            help="One row for each text file.",
        ),
    ] = False

    def options(self) -> ReadOptions:
        """Return them as the readers take them. Raises DataError on an unknown encoding or delimiter."""
        from backend.data.sources import ReadOptions  # noqa: PLC0415 - pyarrow loads here

        return ReadOptions(self.encoding, self.delimiter, self.whole_file, self.sheet)

    def words(self) -> list[str]:
        """Return those that are set as words of a command line."""
        given = {"encoding": self.encoding, "delimiter": self.delimiter, "sheet": self.sheet}
        words = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
        return [*words, *(["--whole-file"] * self.whole_file)]


AS_THE_FILE_SAYS = Reading()


def column_words(columns: Mapping[str, str] | None) -> list[str]:
    """Return a column map as words of a command line."""
    return [word for part, name in (columns or {}).items() for word in (f"--columns.{part}", name)]


def find_run(runs: Path, name: str) -> RunDir:
    """The run a person means: a folder, an id or its beginning, a given name, or ``latest``. Raises RunError."""
    from backend.manager.run_manager import RunManager  # noqa: PLC0415

    if name == LATEST and not Path(name).exists():
        newest = RunDir.all_under(runs)
        if newest:
            return max(newest, key=lambda run: (created(run.path), run.id))
    return RunManager(runs).find(name)


def shown(run: RunDir) -> str:
    """The shortest way to name the run on a command line, quoted for it: its id where it lies in ./runs."""
    return shlex.quote(run.id if run.path.parent == Path("runs").absolute() else str(run.path))
