"""``tunesmith infer`` and ``chat``: talk to a run, run it over a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from backend.commands import lazy
from backend.commands.look import print_look
from backend.commands.options import (
    AsJson,
    BaseModel,
    Checkpoint,
    Precision,
    RunsFolder,
    find_source,
)
from backend.commands.output import print_json, say, say_on
from backend.commands.phrases import error_text
from backend.commands.reading import AS_THE_FILE_SAYS, Columns, Reading
from backend.errors import ConfigError, DataError, InferenceError, Problem
from backend.utils.path_utils import user_path

if TYPE_CHECKING:
    from backend.inferencer import Inferencer

RunName = Annotated[
    str, Parameter(help="A run's folder, id or name, latest, a model folder, an alias or a hub id.")
]
Base = Annotated[bool, Parameter(negative=(), help="Use the base model without what was trained.")]
MaxNewTokens = Annotated[int, Parameter(help="Longest answer in tokens.")]
Temperature = Annotated[float, Parameter(help="0 takes the likeliest token; higher is more varied.")]


def infer(
    run: RunName,
    prompt: Annotated[str | None, Parameter(help="One prompt.")] = None,
    *,
    file: Annotated[
        Path | None, Parameter(help="Rows to answer: any file, folder or pattern, as data.train.")
    ] = None,
    out: Annotated[Path | None, Parameter(help="Where the answers of --file go, as JSONL.")] = None,
    columns: Columns = None,
    reading: Reading = AS_THE_FILE_SAYS,
    checkpoint: Checkpoint = None,
    base: Base = False,
    base_model: BaseModel = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: Annotated[
        float, Parameter(help="Keep the likeliest tokens up to this share of probability.")
    ] = 1.0,
    top_k: Annotated[int, Parameter(help="Keep this many of the likeliest tokens; 0 for all.")] = 0,
    seed: Annotated[
        int | None,
        Parameter(help="Draw every row with this seed; without one, rows are drawn by their number."),
    ] = None,
    stop: Annotated[tuple[str, ...], Parameter(help="Texts that end the answer.")] = (),
    choice: Annotated[tuple[str, ...], Parameter(help="The answer is one of these texts.")] = (),
    regex: Annotated[str | None, Parameter(help="The answer matches this regular expression.")] = None,
    adapter_strength: Annotated[float, Parameter(help="0 is the base, 1 what was trained, at most 2.")] = 1.0,
    precision: Precision = "exact",
    tokens: Annotated[
        bool, Parameter(negative=(), help="Show the exact prompt and every token; tuned against base.")
    ] = False,
    overwrite: Annotated[bool, Parameter(negative=(), help="Replace answers that --out holds.")] = False,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Answer one prompt, or every row of a file; a file that was interrupted goes on where it ended.

    Examples
    --------
    tunesmith infer RUN "Which store section does this food belong to? Bratwurst, pork"

    tunesmith infer RUN --file questions.jsonl --out answers.jsonl

    tunesmith infer RUN --prompt "Bratwurst, pork" --tokens --max-new-tokens 32
    """
    if (prompt is None) == (file is None):
        raise _choose("--prompt or --file", "Give exactly one of them.")
    if (file is None) != (out is None):
        raise _choose("--out", "--file and --out go together.")
    if tokens and prompt is None:
        raise _choose("--tokens", "goes with --prompt.")
    sampling = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k,
    } | ({} if seed is None else {"seed": seed})  # fmt: skip
    constraint = _constraint(choice, regex)
    options = {**sampling, "stop": stop, "constraint": constraint}
    file, out = file and user_path(file), out and user_path(out)
    how: dict[str, Any] = {"columns": columns, "reading": reading.options()}
    if file is not None:
        _check_files(file, out, how)
    elif columns or reading != AS_THE_FILE_SAYS:
        raise _choose("--columns and how a file is read", "They go with --file.")
    chosen = {"checkpoint": checkpoint, "base": base, "base_model": base_model, "precision": precision}
    with _open(run, runs, **chosen, strength=adapter_strength) as model:
        if file is not None and out is not None:
            return _answer_file(model, file, out, {**options, **how, "overwrite": overwrite}, as_json=as_json)
        if tokens:
            return _show_tokens(model, str(prompt), options, as_json=as_json)
        return _answer_one(model, str(prompt), options, as_json=as_json)


def _constraint(choice: tuple[str, ...], regex: str | None) -> Any:

    if choice and regex is not None:
        raise _choose("--choice or --regex", "An answer has one form.")
    if choice:
        return lazy.constraint.Constraint.choice(*choice)
    return None if regex is None else lazy.constraint.Constraint.regex(regex)


def _check_files(file: Path, out: Path | None, how: dict[str, Any]) -> None:
    """Say what is wrong with the files before a model is loaded for them."""
    lazy.batch.read_prompts(file, **how)
    if out is not None and not out.absolute().parent.is_dir():
        raise _choose("--out", f"There is no folder {out.absolute().parent}.")


def _choose(field: str, message: str) -> ConfigError:
    return ConfigError([Problem(field, message, "See `tunesmith infer --help`.")], code="bad-flag")


def _open(run: str, runs: Path, **options: Any) -> Inferencer:

    return lazy.inferencer.Inferencer(find_source(run, runs), **options)


def _answer_one(model: Inferencer, prompt: str, options: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print_json({"prompt": prompt, "answer": model.infer(prompt, **options)})
        return 0
    for piece in model.stream(prompt, **options):
        say_on(piece)
    say()
    return 0


def _show_tokens(model: Inferencer, prompt: str, options: dict[str, Any], *, as_json: bool) -> int:
    found = lazy.token_view.view_tokens(model, prompt, **options)
    if as_json:
        print_json(found)
    else:
        print_look(found)
    return 0


def _answer_file(model: Inferencer, file: Path, out: Path, options: dict[str, Any], *, as_json: bool) -> int:

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=as_json or not console.is_terminal) as bars:
        task = bars.add_task("answering", total=None)

        def show(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        found = lazy.batch.answer_file(model, file, out, progress=show, **options)
    if as_json:
        counts = {"rows": found.rows, "answered": found.answered, "failed": found.failed}
        print_json({**counts, "taken_up": found.taken_up, "out": out})
    else:
        before = f", {found.taken_up} of them from before" if found.taken_up else ""
        bad = f", {found.failed} rows could not be answered (see their error)" if found.failed else ""
        say(f"{found.answered} answers in {out}{before}{bad}")
    return 0 if found.answered else 2


def chat(
    run: RunName,
    *,
    checkpoint: Checkpoint = None,
    base: Base = False,
    base_model: BaseModel = None,
    system: Annotated[str | None, Parameter(help="A system prompt.")] = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    seed: Annotated[int, Parameter(help="Fixes the draw when temperature is above 0.")] = 0,
    precision: Precision = "exact",
    runs: RunsFolder = Path("runs"),
) -> int:
    """Talk to a run. /new starts over, /exit or Ctrl-D leaves, Ctrl-C ends an answer.

    Example
    -------
    tunesmith chat RUN --temperature 0.7
    """
    opening = [{"role": "system", "content": system}] if system else []
    messages = list(opening)
    chosen = {"checkpoint": checkpoint, "base": base, "base_model": base_model, "precision": precision}
    with _open(run, runs, **chosen) as model:
        say("Ask away. /new starts over, /exit leaves.")
        while True:
            try:
                text = input("> ").strip()
            except (EOFError, KeyboardInterrupt):
                say()
                return 0
            if text == "/exit":
                return 0
            if text == "/new":
                messages = list(opening)
                continue
            if text:
                options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
                messages += _take_turn(model, [*messages, {"role": "user", "content": text}], options)


def _take_turn(
    model: Inferencer, asked: list[dict[str, Any]], options: dict[str, Any]
) -> list[dict[str, Any]]:
    """The last message of ``asked`` and its answer, as it was shown; nothing where that cannot be asked."""
    pieces: list[str] = []
    try:
        for piece in model.stream(asked, **options):
            pieces.append(piece)
            say_on(piece)
    except KeyboardInterrupt:
        pass
    except (DataError, InferenceError) as error:
        say(error_text(error))
        return []
    say()
    return [asked[-1], {"role": "assistant", "content": "".join(pieces)}]
