"""``tunesmith train``: a configuration becomes a run folder, and the run is carried out before your eyes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from backend.commands.options import AsJson, RunsFolder, shown
from backend.commands.output import NOTHING, after_run, print_json, say, say_to_nobody
from backend.commands.phrases import next_action, outcome_record, with_flags
from backend.run.folder import RunDir

if TYPE_CHECKING:
    from backend.run.config import RunConfig
    from backend.run.reports import Outcome

Detach = Annotated[bool, Parameter(negative=(), help="Train in the background and return at once.")]
Accept = Annotated[
    tuple[str, ...],
    Parameter(
        negative=(),
        help="Train although this data check says STOP; may stand more than once. The run and its card name it.",
    ),
]
Settings = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]


def train(
    *settings: Settings,
    runs: RunsFolder = Path("runs"),
    dry_run: Annotated[
        bool, Parameter(negative=(), help="Check everything, load no weights, train nothing.")
    ] = False,
    detach: Detach = False,
    queue: Annotated[bool, Parameter(negative=(), help="Put the run into the queue instead.")] = False,
    ablate: Annotated[
        int | None, Parameter(help="Train with and without augmentation under this many seeds, and compare.")
    ] = None,
    accept: Accept = (),
    as_json: AsJson = False,
) -> int:
    """Fine-tune a model: ``tunesmith train [CONFIG] [--section.key value …]``.

    CONFIG is a YAML file (``tunesmith config init`` writes one); any setting can be given or overridden as a flag,
    and only ``data.train`` is required. What the data check calls STOP prevents the run.

    Examples
    --------
    tunesmith train --data.train rows.jsonl

    tunesmith train run.yaml --training.num_train_epochs 3 --tuning.lora_r 8

    tunesmith train run.yaml --detach

    tunesmith train run.yaml --augmentation.typos 0.02 --ablate 3
    """
    from backend.manager.alerts import check_environ  # noqa: PLC0415

    check_environ(os.environ)
    config = resolve_config(settings, accept)
    from backend.training.agreement import require_alone  # noqa: PLC0415 - torch loads here

    require_alone(os.environ)
    if dry_run:
        return _print_dry_run(config, as_json=as_json)
    from backend.manager.launch import launch  # noqa: PLC0415
    from backend.run.reports import DataCheck  # noqa: PLC0415
    from backend.training.inputs import check_inputs  # noqa: PLC0415 - transformers loads here

    found = check_inputs(config, all_now=False)
    config = config.pinned(dict(found.sha256))
    if not as_json:
        _warn(found.warnings)
    if ablate is not None:
        from backend.commands.ablate import ablate as carry_out_ablation  # noqa: PLC0415

        return carry_out_ablation(config, found, ablate, runs, as_json=as_json)
    also = {"warnings": found.warnings}
    run = launch(runs, config, "create", checked=DataCheck(found.findings, tuple(config.data.accept)))
    if not as_json:
        _say_whether_it_is_called_so(run, config.name.strip())
    if queue:
        from backend.commands.run_queue import put_into_queue  # noqa: PLC0415

        return put_into_queue(run, as_json=as_json, also=also)
    go_on = start_detached if detach else carry_out
    return go_on(run, as_json=as_json, also=also)


def _say_whether_it_is_called_so(run: RunDir, name: str) -> None:
    from backend.manager.run_summary import read_labels  # noqa: PLC0415

    if name and read_labels(run).name != name:
        say(f"Another run can be asked for by {name!r} already, so this one is known by its id.")


def resolve_config(settings: Sequence[str], accept: Sequence[str] = ()) -> RunConfig:
    """The configuration that a command line means: file, then environment, then flags; ``accept`` joins data.accept.

    Paths are made absolute, and the content of a chat template's file stands in place of its path, so that the run
    folder holds all it needs. Raises ConfigError with every problem at once, and those of ``template_text``.
    """
    from backend.run.config import parse_config  # noqa: PLC0415
    from backend.run.settings import with_absolute_paths  # noqa: PLC0415
    from backend.utils.config_utils import (  # noqa: PLC0415
        apply_overrides,
        environment_overrides,
        parse_flags,
        read_yaml,
    )

    files = [settings[0]] if settings and not settings[0].startswith("--") else []
    raw: dict[str, Any] = read_yaml(Path(files[0])) if files else {}
    overrides = environment_overrides(os.environ) | parse_flags(settings[len(files) :])
    raw = apply_overrides(raw, overrides)
    return with_absolute_paths(parse_config(raw).accepting(accept))


def _warn(warnings: Sequence[str]) -> None:
    """Say what was found that a run may go on with."""
    for warning in warnings:
        say(f"Warning: {with_flags(warning)}")


def _print_dry_run(config: RunConfig, *, as_json: bool) -> int:
    from backend.training.inputs import check_inputs  # noqa: PLC0415 - transformers loads here

    found = check_inputs(config)
    if as_json:
        print_json({"dry_run": asdict(found), "config": config.model_dump(mode="json")})
        return 0
    say("Everything that can be checked without loading weights is in order:")
    for name, value in vars(found).items():
        if name not in {"warnings", "findings", "stops"}:
            say(f"  {name.replace('_', ' ')}: {value}")
    _warn(found.warnings)
    return 0


def start_detached(run: RunDir, *, as_json: bool, also: Mapping[str, Any] = NOTHING) -> int:
    """Train the run in a process of its own that outlives this one; says how to watch and stop it.

    ``also`` is what its JSON holds besides.
    """
    from backend.manager import process_manager  # noqa: PLC0415
    from backend.manager.ranks import torchrun_command  # noqa: PLC0415

    by_hand = torchrun_command(run)
    if by_hand:
        return _hand_over(run, by_hand, as_json=as_json, also=also)
    state = process_manager.start(run)
    if as_json:
        where = {"status": str(state.status), "attempt": state.attempt}
        print_json({"run": run.id, "path": run.path, **where, **also})
        return 0
    say(f"Run {run.id} trains in the background\n  in {run.path}")
    say(f"  tunesmith runs watch {shown(run)}   curve, time left and log, live")
    say(f"  tunesmith runs stop {shown(run)}    save a checkpoint and stop")
    return 0


def _hand_over(run: RunDir, command: str, *, as_json: bool, also: Mapping[str, Any]) -> int:
    """A run of several machines is made here and started by who has them; says how, with ``also`` as JSON."""
    if as_json:
        where = {"status": str(run.status()), "torchrun": command}
        print_json({"run": run.id, "path": run.path, **where, **also})
        return 0
    say(f"Run {run.id} is ready\n  in {run.path}")
    say("Type on each machine, with the first one's address; all must see that folder under that path:")
    say(f"  {command}")
    return 0


def carry_out(run: RunDir, *, as_json: bool, also: Mapping[str, Any] = NOTHING) -> int:
    """Train the run in this process with progress on the screen; returns the exit code.

    A run of several processes trains in the background: somebody must start and watch them. ``also`` is what its
    JSON holds besides.
    """
    from backend.manager.ranks import nproc_per_node, torchrun_command  # noqa: PLC0415

    if nproc_per_node(run) > 1 or torchrun_command(run):
        return start_detached(run, as_json=as_json, also=also)
    if not as_json:
        say(f"Run {run.id}\n  in {run.path}")
    from backend.commands.progress import ProgressView  # noqa: PLC0415
    from backend.run.outcomes import exit_code  # noqa: PLC0415
    from backend.trainer_main import run as train_run  # noqa: PLC0415 - torch loads here, after the first line

    with ProgressView(quiet=as_json) as view:
        outcome = train_run(run, view)
    after_run(run)
    try:
        if as_json:
            print_json({"run": run.id, "path": run.path, **outcome_record(run, outcome), **also})
        else:
            _print_outcome(run, outcome)
        sys.stdout.flush()
    except BrokenPipeError:  # the exit code still says how the run ended
        say_to_nobody()
    return exit_code(outcome)


def _print_outcome(run: RunDir, outcome: Outcome) -> None:
    from backend.manager.explain import way_back  # noqa: PLC0415
    from backend.run.reports import RunStatus  # noqa: PLC0415
    from backend.utils.jsonl_utils import last_records  # noqa: PLC0415

    say(f"{str(outcome.status).capitalize()}: {outcome.message}")
    state = run.state()
    if outcome.status is RunStatus.FINISHED:
        say(f"  result  {outcome.result}")
    if outcome.status is not RunStatus.FINISHED or way_back(run, state):
        say(f"  {next_action(run, state)}")
    else:
        say("Next:")
        if any(last_records(run.samples_file)):  # held-out rows that ask something, which can be scored
            say(f"  tunesmith evaluate {shown(run)}   base and tuned side by side on the held-out rows")
        say(f"  tunesmith chat {shown(run)}")
