"""A studio with something on every page: a run in every state and a hostile one, data, exports, a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backend.run.folder import RunDir
from tests.app.answering import Answering
from tests.app.browser.served import ServedStudio
from tests.app.states import Runs
from tests.app.test_exports import make_export
from tests.app.test_hostile import EVIL, hostile_run
from tests.runs import write_rows

ROWS = [
    *[{"prompt": f"food {n}", "completion": EVIL} for n in range(6)],
    *[{"prompt": EVIL, "completion": "meat"}] * 2,
    {"prompt": "salt &amp; pepper", "completion": ""},
]


@dataclass(frozen=True)
class Furnished:
    """The studio, its runs by their state, and a file of rows that has not been given to it yet."""

    studio: ServedStudio
    made: dict[str, RunDir]
    rows: Path


@contextmanager
def furnish(root: Path, rows: Path) -> Iterator[Furnished]:
    """A studio over ``root``, to be looked at; its server answers hostile things. ``rows`` are written."""
    runs = Runs(root / "runs")
    made = runs.in_every_state()
    made |= {
        "held": runs.queued("held", hold=True),
        "second": runs.finished("lower rate", learning_rate=1e-4),
    }
    made |= {"hostile": hostile_run(runs)}
    make_export(root, light="green")
    make_export(root, "<b>odd", light="red")
    with Answering() as server, server.standing_in(runs.root):
        server.pieces = [EVIL]
        server.models += [{"id": made["finished"].id, "name": EVIL, "checkpoints": [20, 40]}]
        with ServedStudio(root) as studio:
            yield Furnished(studio, made, write_rows(rows, ROWS))
    runs.close()
