"""The command line: parse, call, print."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from cyclopts import App, CycloptsError

from backend.commands import config, data, run_queue, runs, tensorboard
from backend.commands import run_actions as _actions  # noqa: F401 - puts its commands under runs
from backend.commands.doctor import doctor
from backend.commands.estimate import estimate
from backend.commands.export import export
from backend.commands.infer import chat, evaluate, infer
from backend.commands.output import EXIT_BAD_INPUT, make_writable, print_json, report_error, say_to_nobody
from backend.commands.serve import serve
from backend.commands.studio import studio
from backend.commands.train import train
from backend.commands.watch import watch
from backend.errors import TunesmithError
from backend.utils.process_utils import collect_rarely

EXIT_INTERRUPTED = 130


def _version() -> str:
    try:
        return version("tunesmith")
    except PackageNotFoundError:
        return "unknown"


app = App(
    name="tunesmith",
    help="Fine-tune language models on your own data, on your own machine, and see the proof.",
    version=_version,
    help_format="markdown",
    result_action="return_value",
)
app.command(studio)
app.command(train)
app.command(estimate)
app.command(evaluate)
app.command(chat)
app.command(infer)
app.command(serve)
app.command(export)
runs.app.command(watch)
runs.app.command(run_queue.app)
app.command(runs.app)
app.command(data.app)
app.command(tensorboard.app)
app.command(config.app)
app.command(doctor)


def _show_examples(group: App) -> None:
    """Put the examples of each command's docstring under its help; the library leaves them out."""
    for command in (group[name] for name in group if not name.startswith("-")):
        _show_examples(command)
        text = inspect.getdoc(command.default_command) if command.default_command else None
        found = re.findall(r"^tunesmith .*$", text or "", re.MULTILINE)
        if found:
            command.help_epilogue = "\n".join(["For example:", "", *(f"- `{line}`" for line in found)])


_show_examples(app)


def _refused_by_the_system(error: OSError) -> TunesmithError:
    place = f"{error.filename}: " if error.filename else ""
    remedy = "Check the path, its permissions and the room on its disk."
    return TunesmithError(f"{place}{error.strerror or error}.", remedy=remedy, code="system-error")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 fine, 2 for input to be mended, else see docs/cli.md."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: who waits leaves the core to others
    collect_rarely()
    make_writable()
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(tokens, as_json="--json" in tokens)
        sys.stdout.flush()
    except BrokenPipeError:
        say_to_nobody()
        return 0
    except OSError as error:  # what could not be written could not be reported there either
        say_to_nobody()
        sys.stderr.write(f"Error: {_refused_by_the_system(error)}\n")
        return EXIT_BAD_INPUT
    return code


def _run(tokens: Sequence[str], *, as_json: bool) -> int:
    """Run one command; its exit code, or that of its error, which is told.

    Raises OSError where standard output takes nothing more.
    """
    try:
        result = app(tokens, exit_on_error=False, print_error=False)
    except TunesmithError as error:
        return report_error(error, as_json=as_json)
    except CycloptsError as error:
        message = " ".join(str(error).split())
        if as_json:
            print_json({"error": {"code": "bad-command", "message": message, "remedy": "See --help."}})
        else:
            sys.stderr.write(f"Error: {message} See `tunesmith --help`.\n")
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout.flush()  # if that is what was refused, it is told as such, once
        return report_error(_refused_by_the_system(error), as_json=as_json)
    except SystemExit:  # how rich goes when the reader of its output has gone
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
