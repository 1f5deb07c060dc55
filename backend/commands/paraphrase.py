"""``tunesmith data paraphrase``: prompts reworded by a model, as a file that a person reviews before training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from backend.commands import lazy
from backend.commands.options import AsJson, BaseModel, RunsFolder, find_source
from backend.commands.output import print_json, say
from backend.commands.reading import AS_THE_FILE_SAYS, Columns, Reading, Rows
from backend.data.load import load_rows
from backend.data.paraphrase import REQUEST, check_place, propose, write_review
from backend.utils.path_utils import user_path

if TYPE_CHECKING:
    from backend.inferencer import Inferencer


def paraphrase(
    path: Rows,
    *,
    out: Annotated[Path, Parameter(help="The review file to write; it must not be there yet.")],
    model: Annotated[
        str, Parameter(help="A run, a model folder, an alias or a hub id; small models reword badly.")
    ] = "smollm2-135m",
    limit: Annotated[int, Parameter(help="Rows to reword, from the first.")] = 100,
    temperature: Annotated[
        float, Parameter(help="0 takes the likeliest token; higher is more varied.")
    ] = 0.7,
    seed: Annotated[int, Parameter(help="Fixes the draw when temperature is above 0.")] = 0,
    columns: Columns = None,
    reading: Reading = AS_THE_FILE_SAYS,
    base_model: BaseModel = None,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Let a model reword prompts, and write what may mean the same to a file for you to review.

    Set accepted to true in the lines that mean the same; augmentation.paraphrases then trains on these, with the
    answers of their rows.

    Example
    -------
    tunesmith data paraphrase rows.jsonl --model latest --out review.jsonl
    """
    out = user_path(out)
    check_place(out)
    rows = load_rows(path, columns, 1.0, reading.options()).rows[: max(0, limit)]
    with lazy.inferencer.Inferencer(find_source(model, runs), base_model=base_model) as loaded:
        proposals = propose(rows, lambda asked: _reworded(loaded, asked, temperature, seed))
    write_review(proposals, out)
    found = {"rows": len(rows), "proposals": len(proposals), "review": str(out)}
    if as_json:
        print_json(found)
        return 0
    say(
        f"{len(proposals):,} of {len(rows):,} prompts reworded; the others differ in numbers, negations or length."
    )
    say(f"Review {out}, then train with --augmentation.paraphrases {out}")
    return 0


def _reworded(model: Inferencer, asked: Sequence[str], temperature: float, seed: int) -> list[str]:

    said = model.infer_batch([REQUEST + text for text in asked], temperature=temperature, seed=seed)
    return [text if isinstance(text, str) else "" for text in said]
