"""The command line: parse, call, print. Floor F4; imports the heavy rooms only inside the command that needs them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from cyclopts import App, CycloptsError

from backend.commands import config, runs
from backend.commands.doctor import doctor
from backend.commands.infer import chat, evaluate, infer
from backend.commands.output import EXIT_BAD_INPUT, print_json, report_error
from backend.commands.train import train
from backend.errors import TunesmithError

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
app.command(train)
app.command(evaluate)
app.command(chat)
app.command(infer)
app.command(runs.app)
app.command(config.app)
app.command(doctor)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 fine, 2 for input to be mended, else see docs/cli.md."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in tokens
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
        sys.stderr.close()  # the reader left; nothing more can be said
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
