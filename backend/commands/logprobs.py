"""``tunesmith data logprobs``: what a teacher says of the answers in rows, for a student to learn from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from backend.commands import lazy
from backend.commands.options import AsJson, BaseModel, Checkpoint, RunsFolder, find_source
from backend.commands.output import print_json, say
from backend.commands.reading import AS_THE_FILE_SAYS, Columns, Reading, Rows
from backend.errors import DataError
from backend.run.settings import parse_config
from backend.utils.path_utils import user_path


def logprobs(
    path: Rows,
    *,
    teacher: Annotated[str, Parameter(help="A run, latest, a model folder, an alias or a hub id.")],
    out: Annotated[Path, Parameter(help="The file to write; it must not be there yet.")],
    k: Annotated[int, Parameter(help="Likeliest tokens to keep at each trained token.")] = 32,
    temperature: Annotated[
        float, Parameter(help="Above 1 evens out the teacher's distribution, and the student's in training.")
    ] = 1.0,
    columns: Columns = None,
    reading: Reading = AS_THE_FILE_SAYS,
    chat_template: Annotated[
        str | None, Parameter(help="The student's chat template, as model.chat_template, if it is another.")
    ] = None,
    max_length: Annotated[int, Parameter(help="Longest example in tokens, as data.max_length.")] = 1024,
    truncation: Annotated[
        Literal["error", "cut", "drop"], Parameter(help="What to do with longer rows, as data.truncation.")
    ] = "error",
    checkpoint: Checkpoint = None,
    base_model: BaseModel = None,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Let a teacher read rows, and write its likeliest tokens at each answer token to a file to distil from.

    Example
    -------
    tunesmith data logprobs rows.jsonl --teacher RUN --out rows.teacher.safetensors
    """
    out = user_path(out)
    if out.exists():
        raise DataError(
            f"{out} exists already.", remedy="Name another file, or delete this one.", code="out-exists"
        )
    if not 0.1 <= temperature <= 100:
        raise DataError(
            f"The temperature {temperature:g} is not from 0.1 to 100.", remedy="1 is usual.", code="bad-k"
        )
    settings: dict[str, Any] = {"max_length": max_length, "truncation": truncation, **asdict(reading)}
    data = parse_config({"data": {"train": path, "validation": 0, "columns": columns or {}, **settings}}).data
    dataset = lazy.data_pipeline.load(data, seed=0)
    source = find_source(teacher, runs)
    told = lazy.teaching.Reader(
        source, checkpoint=checkpoint, base_model=base_model, chat_template=chat_template
    )
    console = Console(stderr=True)
    with (
        told,
        Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console,
                 disable=as_json or not console.is_terminal) as bars,
    ):  # fmt: skip
        task = bars.add_task("reading", total=len(dataset.train))
        rows = told.write(
            out,
            dataset,
            data,
            k=k,
            temperature=temperature,
            note=lambda done: bars.update(task, completed=done),
        )
    if as_json:
        print_json({"rows": rows, "k": k, "temperature": temperature, "out": str(out)})
        return 0
    say(
        f"{rows:,} rows read; {k} tokens at each answer token are in {out} ({out.stat().st_size / 1e6:,.1f} MB)."
    )
    say(f"Train a student with --data.train {path} --data.teacher_logprobs {out}")
    return 0
