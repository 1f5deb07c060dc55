"""``tunesmith data answers``: training rows from what a model answered."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from backend.commands.options import AsJson
from backend.commands.output import print_json, say
from backend.data.answered import Keep, read_answers, training_rows
from backend.errors import DataError
from backend.run.methods import usual_method
from backend.utils.file_utils import write_text_durably
from backend.utils.path_utils import user_path

KINDS: dict[Keep, str] = {"right": "chat", "wrong": "preference", "all": "judged"}
"""The kind of row that each choice makes, as ``Row.kind`` names it."""


def answers(
    path: Annotated[Path, Parameter(help="Answers that infer --file wrote.")],
    *,
    out: Annotated[Path, Parameter(help="The file of rows to write; it must not be there yet.")],
    keep: Annotated[
        Keep,
        Parameter(help="right answers as rows, wrong ones beside the expected as pairs, or all, marked."),
    ] = "wrong",
    matching: Annotated[
        str | None, Parameter(help="A regular expression that right answers match, instead of the expected.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Make training rows from a model's answers: its right answers, or pairs with its wrong ones.

    Example
    -------
    tunesmith data answers answers.jsonl --keep wrong --out pairs.jsonl
    """
    out = user_path(out)
    if out.exists():
        raise DataError(
            f"{out} exists already.", remedy="Name another file, or delete this one.", code="out-exists"
        )
    given, unanswered = read_answers(user_path(path))
    rows = list(training_rows(given, keep, _pattern(matching)))
    if not rows:
        raise DataError(
            f"None of the {len(given):,} answers in {path} is to be kept.",
            remedy="Choose other answers with --keep, or another pattern with --matching.",
            code="no-rows",
        )
    write_text_durably(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    method = usual_method(KINDS[keep])
    if as_json:
        print_json(
            {
                "answers": len(given),
                "unanswered": unanswered,
                "rows": len(rows),
                "out": str(out),
                "method": method,
            }
        )
        return 0
    say(f"{len(rows):,} rows from {len(given):,} answers; {unanswered:,} questions had none.")
    say(f"Train on them with --data.train {out} --objective.method {method}")
    return 0


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text, re.DOTALL)
    except re.error as error:
        raise DataError(
            f"{text!r} is no regular expression: {error}.", remedy="Mend --matching.", code="bad-pattern"
        ) from None
