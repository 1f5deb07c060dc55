"""``tunesmith runs resume``: go on with a run, or branch off from it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from backend.commands import lazy
from backend.commands.carry_out import carry_out, start_detached
from backend.commands.options import AsJson, Detach, OneRun, RunsFolder, find_run
from backend.commands.output import say
from backend.manager.alerts import check_environ
from backend.manager.run_manager import RunManager


def resume(
    run: OneRun,
    *,
    detach: Detach = False,
    skip_rows: Annotated[
        str,
        Parameter(help="Branch without the rows in these places, such as train.jsonl:12,train.jsonl:40."),
    ] = "",
    lower_lr: Annotated[
        float | None, Parameter(help="Branch with the learning rate times this factor, such as 0.5.")
    ] = None,
    from_step: Annotated[
        int | None, Parameter(help="Branch from the checkpoint of this step, not the newest good one.")
    ] = None,
    micro_batch_tokens: Annotated[
        int | None,
        Parameter(
            name="--training.micro_batch_tokens",
            help="Branch with so many tokens computed at once: fewer need less memory and change rounding only.",
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        Parameter(help="Branch over the base model at this place, where it was moved; another is refused."),
    ] = None,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Go on with a run from its newest good checkpoint; on the same kind of machine bit for bit as if never stopped.

    With any of the settings above a new run branches off there, and this one stays as it is.

    Examples
    --------
    tunesmith runs resume RUN

    tunesmith runs resume RUN --lower-lr 0.5 --skip-rows train.jsonl:12,train.jsonl:40

    tunesmith runs resume RUN --training.micro_batch_tokens 512
    """
    check_environ(os.environ)
    found = find_run(runs, run)
    places = [place.strip() for place in skip_rows.split(",") if place.strip()]
    changes: dict[str, Any] = {
        "skip_rows": places,
        "rate_factor": lower_lr,
        "micro_batch_tokens": micro_batch_tokens,
        "base_model": base_model,
    }
    if from_step is not None or any(value not in (None, []) for value in changes.values()):
        found, origin = lazy.branching.branch_off(found, from_step=from_step, **changes)
        RunManager(found.path.parent).note(found.id, origin)
        if not as_json:
            say(f"{origin} That run stays as it is.")
    return start_detached(found, as_json=as_json) if detach else carry_out(found, as_json=as_json)
