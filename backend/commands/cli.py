"""The command line: parse, call, print."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from cyclopts import App, CycloptsError, UnusedCliTokensError

from backend.commands.output import make_writable, report_error, say_to_nobody
from backend.errors import EXIT_BAD_INPUT, TunesmithError
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
    suppress_keyboard_interrupt=False,  # else SystemExit(130), which would be taken for a reader who has gone
)
runs = App(name="runs", help="Look at runs, steer them and carry them on.")
data = App(name="data", help="What is wrong with the rows, and what the model will see of them.")

COMMANDS = (
    (app, "studio:studio",
    "Open the studio: the whole journey in a browser. It listens on this machine only, until Ctrl-C."),
    (app, "start:start",
    "Lead from a file of rows to an exported model: check, train, compare, chat and export, a question at a time."),
    (app, "train:train", "Fine-tune a model: ``tunesmith train [CONFIG|ROWS] [--section.key value …]``."),
    (app, "estimate:estimate",
    "Time, memory and disk of a run, with how far off the estimate may be: ``tunesmith estimate [CONFIG] …``."),
    (app, "evaluate:evaluate",
    "Judge a run against its base, on held-out rows or a spec: better, worse or no difference seen, with intervals."),
    (app, "infer:chat", "Talk to a run. /new starts over, /exit or Ctrl-D leaves, Ctrl-C ends an answer."),
    (app, "infer:infer",
    "Answer one prompt, or every row of a file; a file that was interrupted goes on where it ended."),
    (app, "serve:serve",
    "Serve the base model and every finished run, for the openai client and everything built on it."),
    (app, "export:export",
    "Write a run's result for other programs, into exports/, and check it: another library reads it back."),
    (app, "tensorboard:tensorboard",
    "A TensorBoard server over the runs, on this machine only; and what anybody's event files hold."),
    (app, "config:config", "Every setting of a run, as a schema or as a file to start from."),
    (app, "doctor:doctor", "Say what this machine has and lacks for training, and the command that mends it."),
    (runs, "runs:list_", "All runs, newest first."),
    (runs, "runs:show", "One run: where it stands, why, and what to do next."),
    (runs, "resume:resume",
    "Go on with a run from its newest good checkpoint; on the same kind of machine bit for bit as if never stopped."),
    (runs, "run_actions:stop", "Let a run save a checkpoint and stop. Nothing is deleted; `runs resume` goes on."),
    (runs, "run_actions:pause", "Stop a run that is meant to go on later; the reason is kept with it."),
    (runs, "run_actions:rename",
    "Give a run a name to call it by; its id and folder stay. An empty name takes it away."),
    (runs, "run_actions:tag", "Add tags to a run or take them away; without any, show them."),
    (runs, "run_actions:note", "Write down what a run is about; replaces the note it has."),
    (runs, "run_actions:archive", "Leave a run out of listings; nothing is moved or deleted."),
    (runs, "run_actions:compare", "Runs side by side: where they stand, their losses, and the settings that differ."),
    (runs, "run_actions:explain", "What happened to a run, which rows were in the batch, and what to do."),
    (runs, "run_actions:delete", "Delete a run for good, after asking."),
    (runs, "run_actions:import_",
    "Copy a run from elsewhere into the runs: its folder, or a bundle that `runs export-bundle` wrote."),
    (runs, "run_actions:export_bundle",
    "Write a run as one file to send: configuration, environment, curves, samples, outcome and result."),
    (runs, "watch:watch",
    "Follow a run until it ends: curve, time left, machine and log. Ctrl-C leaves; the run goes on."),
    (runs, "run_queue:queue", "Which run trains next, one after the other."),
    (data, "rows:rows", "Show records as they stand in a source, and say how they will be read and why."),
    (data, "duplicates:duplicates", "Show rows that say the same or nearly the same, the largest groups first."),
    (data, "answers:answers",
     "Make training rows from a model's answers: its right answers, or pairs with its wrong ones."),
    (data, "logprobs:logprobs",
     "Let a teacher read rows, and write its likeliest tokens at each answer token to a file to distil from."),
    (data, "paraphrase:paraphrase",
    "Let a model reword prompts, and write what may mean the same to a file for you to review."),
    (data, "data:check", "Look for everything that is known to spoil a training, with rows, harm and remedy."),
    (data, "data:preview", "Show rows as the model will see them: which tokens it learns, and what an epoch costs."),
)  # fmt: skip
"""Group, import path under ``backend.commands``, and the first line of its docstring, which ``--help`` then need not
import. The command is called as the function or App is."""

for _group, _path, _help in COMMANDS:
    _group.command(f"backend.commands.{_path}", help=_help)
app.command(runs)
app.command(data)


def _show_whole_docstring(command: App) -> None:
    """Show the rest of a command's docstring in its help, with the examples, which the library leaves out."""
    text = (inspect.getdoc(command.default_command) or "") if command.default_command else ""
    if text.startswith(command.help):
        command.help = text
    examples = re.findall(r"^tunesmith .*$", text, re.MULTILINE)
    if examples:
        command.help_epilogue = "\n".join(["For example:", "", *(f"- `{line}`" for line in examples)])


def _bad_command(error: CycloptsError) -> TunesmithError:
    message = " ".join(str(error).split())
    if isinstance(error, UnusedCliTokensError):
        message = f"Not expected here: {' '.join(error.unused_tokens or [])}."
    command = " ".join(["tunesmith", *(error.command_chain or [])])
    return TunesmithError(message, remedy=f"See `{command} --help`.", code="bad-command")


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
        for command in app.parse_commands(tokens)[1]:
            _show_whole_docstring(command)
        result = app(tokens, exit_on_error=False, print_error=False)
    except TunesmithError as error:
        return report_error(error, as_json=as_json)
    except CycloptsError as error:
        return report_error(_bad_command(error), as_json=as_json)
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
