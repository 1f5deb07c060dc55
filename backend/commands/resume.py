"""``tunesmith runs resume``: go on with a run, or branch off from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from backend.commands.options import AsJson, OneRun, RunsFolder, find_run
from backend.commands.output import say
from backend.commands.train import Detach, carry_out, start_detached
from backend.run.folder import RunDir


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
    from backend.manager.alerts import check_environ  # noqa: PLC0415

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
        found = _branch(found, changes, from_step, as_json=as_json)
    return start_detached(found, as_json=as_json) if detach else carry_out(found, as_json=as_json)


def _branch(run: RunDir, changes: Mapping[str, Any], from_step: int | None, *, as_json: bool) -> RunDir:
    """A new run off ``run``; its note says where it comes from. ``changes`` are those of ``changed_config``."""
    from backend.manager.run_manager import RunManager  # noqa: PLC0415
    from backend.training.branching import branch, changed_config  # noqa: PLC0415 - torch loads here
    from backend.training.inputs import read_inputs  # noqa: PLC0415

    config = changed_config(run, **changes)
    read_inputs(config)  # what the data check says of these rows was settled when the first run began
    made = branch(run, config, from_step=from_step)
    what = {
        "rate_factor": f"learning rate {config.training.learning_rate:g}" if changes["rate_factor"] else "",
        "skip_rows": f"without {', '.join(changes['skip_rows'])}",
        "micro_batch_tokens": f"{config.training.micro_batch_tokens} tokens at once",
        "base_model": f"over the base model in {config.model.model_name_or_path}",
    }
    told = "".join(f", {words}" for name, words in what.items() if changes[name])
    origin = f"Branched off {run.id} at step {made.step}{told}."
    RunManager(made.run.path.parent).note(made.run.id, origin)
    if not as_json:
        say(f"{origin} That run stays as it is.")
    return made.run
