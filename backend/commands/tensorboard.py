"""``tunesmith tensorboard``: a TensorBoard server over the runs, on this machine only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from backend.commands.options import AsJson, RunsFolder
from backend.commands.output import print_json, say
from backend.errors import RunError

if TYPE_CHECKING:
    from backend.manager.tensorboard_manager import TensorBoardManager, TensorBoardServer

app = App(name="tensorboard", help="A TensorBoard server over the runs, on this machine only.")


def _manager(runs: Path) -> TensorBoardManager:
    from backend.manager.tensorboard_manager import TensorBoardManager  # noqa: PLC0415 - psutil loads here

    return TensorBoardManager(runs)


@app.command
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


@app.command
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


@app.command
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
