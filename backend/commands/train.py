"""``tunesmith train``: a configuration becomes a run folder, and the run is carried out before your eyes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from backend.commands import lazy
from backend.commands.ablate import ablate as carry_out_ablation
from backend.commands.carry_out import carry_out, start_detached
from backend.commands.options import Accept, AsJson, Detach, RunsFolder, Settings
from backend.commands.output import print_json, say
from backend.commands.phrases import with_flags
from backend.commands.run_queue import put_into_queue
from backend.manager.alerts import check_environ
from backend.manager.launch import launch
from backend.manager.run_summary import read_labels
from backend.run.config import RunConfig
from backend.run.folder import RunDir
from backend.run.methods import usual_method
from backend.run.reports import DataCheck
from backend.run.settings import resolve_config
from backend.utils.path_utils import user_path

_CONFIGS = (".yaml", ".yml", ".json")
"""Endings of a configuration; anything else in its place names rows."""


def train(
    *settings: Settings,
    runs: RunsFolder = Path("runs"),
    dry_run: Annotated[
        bool, Parameter(negative=(), help="Check everything, train nothing; for grpo try what answers earn.")
    ] = False,
    detach: Detach = False,
    queue: Annotated[bool, Parameter(negative=(), help="Put the run into the queue instead.")] = False,
    ablate: Annotated[
        int | None, Parameter(help="Train with and without augmentation under this many seeds, and compare.")
    ] = None,
    accept: Accept = (),
    as_json: AsJson = False,
) -> int:
    """Fine-tune a model: ``tunesmith train [CONFIG|ROWS] [--section.key value …]``.

    CONFIG is a YAML file (``tunesmith config init`` writes one); any setting can be given or overridden as a flag,
    and only ``data.train`` is required. ROWS in its place are trained on as they are usually meant: pairs of answers
    with dpo, marked answers with kto, texts with cpt. What the data check calls STOP prevents the run.

    Examples
    --------
    tunesmith train rows.jsonl

    tunesmith train run.yaml --training.num_train_epochs 3 --tuning.lora_r 8

    tunesmith train run.yaml --detach

    tunesmith train run.yaml --augmentation.typos 0.02 --ablate 3
    """
    check_environ(os.environ)
    rows, given = _rows_first(settings)
    config = resolve_config(given, accept)
    if rows is not None:
        config = _with_usual_method(config, rows, given, accept, as_json=as_json)

    lazy.agreement.require_alone(os.environ)
    if dry_run:
        return _print_dry_run(config, as_json=as_json)

    found = lazy.inputs.check_inputs(config, all_now=False)
    config = config.pinned(dict(found.sha256))
    if not as_json:
        _warn(found.warnings)
    if ablate is not None:
        return carry_out_ablation(config, found, ablate, runs, as_json=as_json)
    also = {"warnings": found.warnings}
    run = launch(runs, config, "create", checked=DataCheck(found.findings, tuple(config.data.accept)))
    if not as_json:
        _say_whether_it_is_called_so(run, config.name.strip())
    if queue:
        return put_into_queue(run, as_json=as_json, also=also)
    go_on = start_detached if detach else carry_out
    return go_on(run, as_json=as_json, also=also)


def _rows_first(settings: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """Return the rows that a command line names in place of a configuration, None if it does not, and its settings.

    Whatever is no flag, no device, no folder of a model or run and does not end like a configuration, in .yaml, .yml
    or .json, names rows: the settings are then those with ``data.train``.
    """
    if not settings or settings[0].startswith(("--", "/dev/")) or settings[0].lower().endswith(_CONFIGS):
        return None, settings
    if any((user_path(settings[0]) / f"config{ending}").is_file() for ending in _CONFIGS):
        return None, settings
    return settings[0], ["--data.train", *settings]


def _with_usual_method(
    config: RunConfig, rows: str, given: Sequence[str], accept: Sequence[str], *, as_json: bool
) -> RunConfig:
    """Return the configuration with the method that rows of their kind are usually given to, unless one is set."""
    if "method" in config.objective.model_fields_set:
        return config
    kind = lazy.data_pipeline.kind_of(config.data)
    method = usual_method(kind)
    if method == config.objective.method:
        return config
    if not as_json:
        what = {
            "preference": "pairs of answers",
            "judged": "answers marked good or bad",
            "text": "plain texts",
        }
        say(f"{rows} holds {what[kind]}: trained with --objective.method {method}.")
    return resolve_config([*given, "--objective.method", method], accept)


def _say_whether_it_is_called_so(run: RunDir, name: str) -> None:

    if name and read_labels(run).name != name:
        say(f"Another run can be asked for by {name!r} already, so this one is known by its id.")


def _warn(warnings: Sequence[str]) -> None:
    """Say what was found that a run may go on with."""
    for warning in warnings:
        say(f"Warning: {with_flags(warning)}")


def _print_dry_run(config: RunConfig, *, as_json: bool) -> int:

    found = lazy.inputs.check_inputs(config)
    if as_json:
        earned = asdict(lazy.audit.audit_of(config)) if config.objective.facts.samples else None
        print_json(
            {"dry_run": asdict(found), "config": config.model_dump(mode="json"), "reward_audit": earned}
        )
        return 0
    say("Everything that can be checked without loading weights is in order:")
    for name, value in vars(found).items():
        if name not in {"warnings", "findings", "stops"}:
            say(f"  {name.replace('_', ' ')}: {value}")
    _warn(found.warnings)
    if config.objective.facts.samples:
        say("\n".join(lazy.audit.audit_of(config).lines()))
    return 0
