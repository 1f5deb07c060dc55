"""``tunesmith data``: what is wrong with the rows, and what the model will see of them, before any training."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from backend.commands import lazy
from backend.commands.data_report import table
from backend.commands.options import AsJson
from backend.commands.output import print_json, say
from backend.commands.reading import AS_THE_FILE_SAYS, Columns, Reading, Rows, column_words
from backend.commands.token_view import print_preview
from backend.core.model_resolver import resolve_model
from backend.data.copies import difference, notes, shown_record, write_copy
from backend.data.doctor import Report, examine
from backend.data.fixes import Change, Mended, mend
from backend.data.load import Loaded, load_rows
from backend.data.records import Row
from backend.errors import DataError
from backend.run.methods import OBJECTIVES
from backend.run.settings import parse_config
from backend.utils.config_utils import parse_value
from backend.utils.path_utils import user_path
from backend.utils.text_utils import counted, shorten

Model = Annotated[str, Parameter(help="The model whose tokenizer and chat template count.")]
MaxLength = Annotated[int | None, Parameter(help="Longest example in tokens; data.max_length if left out.")]
ChatTemplate = Annotated[str | None, Parameter(help="A chat template, as model.chat_template.")]
SHOWN_CHANGES = 2
LISTED_CHANGES = 50


def check(
    path: Rows,
    *,
    validation: Annotated[str | None, Parameter(help="Held-out rows, to look for leaks.")] = None,
    model: Annotated[str | None, Parameter(help="Check the tokens too, with this model's tokenizer.")] = None,
    chat_template: ChatTemplate = None,
    columns: Columns = None,
    reading: Reading = AS_THE_FILE_SAYS,
    max_length: MaxLength = None,
    fix: Annotated[Path | None, Parameter(help="Write a mended copy into this folder.")] = None,
    only: Annotated[
        list[str] | None, Parameter(help="Mend with this fix alone; may stand more than once.")
    ] = None,
    dry_run: Annotated[bool, Parameter(help="Show what the fixes would change and write nothing.")] = False,
    rejected: Annotated[
        Path | None, Parameter(help="Write the rows that cannot be read to this file.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Look for everything that is known to spoil a training, with rows, harm and remedy.

    The exit code is 0 when nothing blocks, 1 when something does, 2 when the rows cannot be read. --fix shows what
    the safe fixes change, writes the next version under its folder, never over your file, and the exit code is
    then that of the copy. Rows that cannot be read are in no copy. Fixes that may take away what is meant (near
    duplicates, HTML entities) are used where --only names them.

    Examples
    --------
    tunesmith data check rows.jsonl --model smollm2-135m

    tunesmith data check rows.jsonl --validation held-out.jsonl --fix mended

    tunesmith data check rows.jsonl --only drop-duplicates --dry-run
    """
    mending = dry_run or fix is not None
    if only and not mending:
        raise DataError(
            "--only says how to mend.",
            remedy="Add --fix FOLDER, or --dry-run to look first.",
            code="nothing-to-mend-into",
        )
    how = reading.options()
    loaded = load_rows(path, columns, 1.0, how, quarantine=rejected and user_path(rejected))
    held_out = load_rows(validation, columns, 1.0, how).rows if validation else ()
    options: dict[str, Any] = {}
    if model is not None:
        options = lazy.template_faults.token_options(_tokenizer(model, chat_template), max_length)
    report = _examine(loaded, path, held_out, options)
    mended = _mend(report, loaded, held_out, only) if mending else None
    if mended is None or not (mended.changes or loaded.rejected):
        return _print_report(report, path, [*column_words(columns), *reading.words()], as_json=as_json)
    out = None if dry_run or fix is None else user_path(fix)
    return _show_fixed(report, mended, loaded, path, out, held_out, options, as_json=as_json)


def _tokenizer(model: str, chat_template: str | None) -> Any:

    return lazy.tokenizer.load_tokenizer(resolve_model(model), chat_template=chat_template)


def _examine(loaded: Loaded, path: str, held_out: Sequence[Row], options: dict[str, Any]) -> Report:

    return examine(loaded, path, validation=held_out, **options)


def _print_report(report: Report, path: str, words: Sequence[str], *, as_json: bool) -> int:
    if as_json:
        print_json(json.loads(report.to_json()))
        return report.exit_code
    _print_table(report)
    if any(finding.fix for finding in report.findings):
        say(
            "Add --dry-run to see what the fixes would change, or --fix FOLDER for a mended copy; your file stays."
        )
    elif report.exit_code == 0:
        say(f"See what the model will see: {shlex.join(['tunesmith', 'data', 'preview', path, *words])}")
    return report.exit_code


def _print_table(report: Report) -> None:

    Console(highlight=False).print(table(report))


def _mend(report: Report, loaded: Loaded, held_out: Sequence[Row], only: list[str] | None) -> Mended:

    found = [finding.fix for finding in report.findings if finding.fix and finding.fix_is_chosen]
    return mend(loaded.rows, found if only is None else only, held_out)


def _show_fixed(
    report: Report,
    mended: Mended,
    loaded: Loaded,
    path: str,
    out: Path | None,
    held_out: Sequence[Row],
    options: dict[str, Any],
    *,
    as_json: bool,
) -> int:
    """Write the copy if there is a place for it, say what changed and what is left; the exit code is the copy's."""
    copy = None
    if out:
        folder = write_copy(
            mended, out, source=path, sha256=loaded.sha256, shape=loaded.shape, options=loaded.options
        )
        copy = folder / "rows.jsonl"
    remaining = _examine(replace(loaded, rows=mended.rows, rejected=()), str(copy or path), held_out, options)
    counts = change_counts(mended.changes, len(loaded.rejected))
    if as_json:
        fixed = {
            "copy": None if copy is None else str(copy),
            "rows": len(mended.rows),
            "changes": counts,
            "differences": [_listed(change) for change in mended.changes[:LISTED_CHANGES]],
            "blocks": remaining.blocks,
            "notes": notes(copy.parent) if copy else [],
        }
        print_json({**json.loads(report.to_json()), "fixed": fixed})
        return remaining.exit_code
    _print_table(report)
    _print_changes(mended.changes, counts)
    if copy is None:
        say(
            f"\nNothing was written. To write {len(mended.rows):,} rows: leave --dry-run out, with --fix FOLDER"
        )
        return remaining.exit_code
    say(
        f"\nWrote {copy} ({len(mended.rows):,} rows; before and after of each change in changes.jsonl beside it)"
    )
    for note in notes(copy.parent):
        say(note)
    still = [finding.title for finding in remaining.findings if finding.level == "block"]
    say(f"Still to mend by hand: {'; '.join(still)}." if still else f"Train on it: --data.train {copy}")
    return remaining.exit_code


def _listed(change: Change) -> dict[str, object]:

    return difference(change)


def _print_changes(changes: Sequence[Change], counts: Mapping[str, tuple[int, int]]) -> None:
    say("\nWhat the fixes change")
    for name, (changed, left_out) in counts.items():
        amounts = [(changed, "changed"), (left_out, "left out")]
        parts = [f"{counted(count, 'row')} {how}" for count, how in amounts if count]
        say(f"  {name}: {', '.join(parts)}")
        for change in [each for each in changes if each.fix == name][:SHOWN_CHANGES]:
            _print_change(change)


def change_counts(changes: Sequence[Change], rejected: int) -> dict[str, tuple[int, int]]:
    """For each fix how many rows it changed and how many it left out."""
    counts = {"drop-rejected": (0, rejected)} if rejected else {}
    for change in changes:
        changed, left_out = counts.get(change.fix, (0, 0))
        counts[change.fix] = (changed, left_out + 1) if change.after is None else (changed + 1, left_out)
    return counts


def _print_change(change: Change) -> None:

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(f"    {change.place}", style="dim"))
    before, after = changed_part(change)
    if change.fix != "redact-secrets":  # a secret is not for screens and logs
        console.print(Text(f"    - {before}", style="red"))
    if change.after is not None:
        console.print(Text(f"    + {after}", style="green"))


def changed_part(change: Change) -> tuple[str, str]:
    """The part of a row that a fix changed, before and after, with a little of what stands around it."""
    before = json.dumps(shown_record(change.before), ensure_ascii=False)
    if change.after is None:
        return shorten(before, 100), ""
    after = json.dumps(shown_record(change.after), ensure_ascii=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    start = max(0, same - 30)
    lead = "…" if start else ""
    return lead + shorten(before[start:], 100), lead + shorten(after[start:], 100)


def preview(
    path: Rows,
    *,
    model: Model = "smollm2-135m",
    chat_template: ChatTemplate = None,
    rows: Annotated[int, Parameter(help="Rows to show token by token.")] = 3,
    columns: Columns = None,
    reading: Reading = AS_THE_FILE_SAYS,
    max_length: MaxLength = None,
    truncation: Annotated[
        Literal["error", "cut", "drop"], Parameter(help="What to do with longer rows, as data.truncation.")
    ] = "cut",
    objective: Annotated[
        Literal["sft", "cpt"], Parameter(help="sft learns answers; cpt plain texts, long ones in pieces.")
    ] = "sft",
    batch_size: Annotated[int, Parameter(help="Examples in one step.")] = 16,
    augmentation: Annotated[
        dict[str, str] | None, Parameter(help="Settings of that section: --augmentation.noise 0.1.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show rows as the model will see them: which tokens it learns, and what an epoch costs.

    Example
    -------
    tunesmith data preview rows.jsonl --model smollm2-135m --rows 2

    tunesmith data preview rows.jsonl --augmentation.typos 0.02

    tunesmith data preview book.txt --whole-file --objective cpt
    """
    data: dict[str, Any] = {
        "train": path,
        "validation": 0,
        "columns": columns or {},
        "truncation": truncation,
        **asdict(reading),
    }
    data |= {} if max_length is None else {"max_length": max_length}
    data["max_rejected_share"] = 1.0
    varied = {name: parse_value(text) for name, text in (augmentation or {}).items()}
    training = {"per_device_train_batch_size": batch_size}
    config = parse_config({"data": data, "augmentation": varied, "training": training})
    dataset = lazy.data_pipeline.load(config.data, seed=config.seed, augmentation=config.augmentation)
    found = lazy.preview.preview(
        dataset,
        config.data,
        _tokenizer(model, chat_template),
        seed=config.seed,
        rows_per_step=batch_size,
        rows=max(0, rows),
        augmentation=config.augmentation,
        cuts_texts=OBJECTIVES[objective].cuts_texts,
    )
    if as_json:
        print_json(asdict(found))
    else:
        print_preview(found)
    return 0
