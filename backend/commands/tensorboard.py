"""``tunesmith tensorboard``: a server over the runs on this machine, and what anybody's event files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from backend.commands.options import AsJson, RunsFolder
from backend.commands.output import print_json, say
from backend.commands.plot import curve_lines
from backend.errors import RunError
from backend.manager.event_files import EventFolder
from backend.manager.scalars import decimate
from backend.manager.tensorboard_manager import TensorBoardManager, TensorBoardServer
from backend.utils.path_utils import user_path

tensorboard = App(name="tensorboard")

_WIDTH, _HEIGHT = 100, 8


def _manager(runs: Path) -> TensorBoardManager:

    return TensorBoardManager(runs)


@tensorboard.command
def start(*, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """Start the server, or find the one that runs; its address comes back.

    Example
    -------
    tunesmith tensorboard start
    """
    server = _manager(runs).start()
    _print_server(server, as_json)
    if not as_json:
        say("It goes on until: tunesmith tensorboard stop")
    return 0


@tensorboard.command
def url(*, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """The address of the running server.

    Example
    -------
    tunesmith tensorboard url
    """
    server = _manager(runs).find()
    if server is None:
        raise RunError(
            f"No TensorBoard runs over {runs}.",
            remedy="Start one with: tunesmith tensorboard start",
            code="not-running",
        )
    _print_server(server, as_json)
    return 0


def _print_server(server: TensorBoardServer, as_json: bool) -> None:
    if as_json:
        print_json({"url": server.url, "port": server.port, "pid": server.process.pid})
    else:
        say(server.url)


@tensorboard.command
def stop(*, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> int:
    """End the server. The runs and their event files stay.

    Example
    -------
    tunesmith tensorboard stop
    """
    ended = _manager(runs).stop()
    if as_json:
        print_json({"stopped": ended})
    else:
        say("TensorBoard has ended." if ended else f"No TensorBoard ran over {runs}.")
    return 0


@tensorboard.command
def curves(
    folder: Annotated[str, Parameter(help="A folder with TensorBoard event files, ours or anybody's.")],
    *,
    tag: Annotated[
        list[str] | None, Parameter(help="Only the curves whose name holds this; may be given again.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """The curves in the event files of a folder, drawn here; what cannot be read is named, the rest is shown.

    Example
    -------
    tunesmith tensorboard curves logs --tag loss
    """
    place = user_path(folder)
    events = EventFolder(place)
    events.poll()
    wanted = {
        name: sorted(points.items())
        for name, points in sorted(events.series.items())
        if not tag or any(part in name for part in tag)
    }
    if not wanted:
        noted = "; ".join(f"{name}: {note}" for name, note in events.notes.items())
        raise RunError(
            f"{place} has no curve{' of that name' if tag and events.series else ''}. {noted}".strip(),
            remedy=f"There are: {', '.join(sorted(events.series))}."
            if events.series
            else "Give a folder in which TensorBoard event files (*tfevents*) lie.",
            code="no-curves",
        )
    if as_json:
        print_json({"curves": wanted, "notes": events.notes})
        return 0
    for name, points in wanted.items():
        steps, values = decimate([at for at, _ in points], [value for _, value in points], 4 * _WIDTH)
        say(f"{name}: {len(points):,} points, last {points[-1][1]:.4g} at step {points[-1][0]:,}")
        for line in curve_lines(steps, values, width=_WIDTH, height=_HEIGHT):
            say(line)
    for name, note in events.notes.items():
        say(f"{name}: {note}")
    return 0
