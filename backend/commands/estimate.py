"""``tunesmith estimate``: what a run will cost before it starts."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from backend.commands import lazy
from backend.commands.options import Accept, AsJson, RunsFolder, Settings
from backend.commands.output import print_json, say
from backend.commands.phrases import error_text, with_flags
from backend.manager.planning.estimator import DataFigures, Estimate, Interval, Machine
from backend.manager.planning.estimator import estimate as work_out
from backend.manager.planning.model_shape import read_shape
from backend.manager.planning.past_runs import read_past
from backend.manager.scalars import duration
from backend.run.settings import resolve_config
from backend.utils.file_utils import free_bytes
from backend.utils.machine_utils import available_cores, available_memory

GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
"""What the drivers of NVIDIA, AMD and Windows (WSL) put there on Linux, containers included."""


def estimate(
    *settings: Settings,
    runs: RunsFolder = Path("runs"),
    accept: Accept = (),
    as_json: AsJson = False,
) -> int:
    """Time, memory and disk of a run, with how far off the estimate may be: ``tunesmith estimate [CONFIG] …``.

    Takes what ``tunesmith train`` takes, reads the rows and the model's shape, and learns from the finished runs. The
    exit code is 1 where the data check says STOP.

    Examples
    --------
    tunesmith estimate run.yaml

    tunesmith estimate --data.train rows.jsonl --training.num_train_epochs 3
    """
    config = resolve_config(settings, accept)
    found = lazy.inputs.read_inputs(config)
    shape = read_shape(Path(found.model))
    data = DataFigures(
        found.train_rows, found.tokens_per_epoch, found.trained_tokens_per_epoch, found.validation_rows
    )
    cost = work_out(config, shape, data, this_machine(runs), read_past(runs))
    if as_json:
        print_json(
            {
                "estimate": asdict(cost),
                "shape": asdict(shape),
                "data": asdict(data),
                "read_as": found.read_as,
                "usual_method": found.usual_method,
                "sha256": found.sha256,
                "warnings": found.warnings,
                "findings": [asdict(each) for each in found.findings],
                "stops": [asdict(each) for each in found.stops],
            }
        )
        return int(bool(found.stops))
    _print(cost)
    for warning in found.warnings:
        say(f"Warning: {with_flags(warning)}")
    if found.stops:
        say(f"STOP: {error_text(lazy.inputs.unsound(config, found.stops))}")
    return int(bool(found.stops))


def this_machine(folder: Path) -> Machine:
    """Return what there is to run on; ``folder``, which need not exist yet, says which disk is meant."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    no_driver = sys.platform == "linux" and not any(map(Path.exists, GPU_DRIVERS))
    graphics = (
        0 if no_driver else lazy.device.gpu_memory_bytes()
    )  # torch is not loaded where it would find none
    memory, device = (graphics, "cuda") if graphics else (available_memory().total_bytes, "cpu")
    return Machine(available_cores(), memory, free_bytes(there), device)


def _print(cost: Estimate) -> None:
    say(f"Time    {_time(cost.seconds)}")
    say(f"Memory  {_bytes(cost.memory_bytes)}")
    say(f"Disk    {_bytes(cost.disk_bytes)}")
    say(f"{cost.steps:,} steps, {cost.tokens:,} tokens, {cost.trainable_parameters:,} trained parameters.")
    say(cost.basis)
    for problem in cost.problems:
        say(f"Will not fit: {problem}")


def _time(seconds: Interval) -> str:

    return f"about {duration(seconds.likely)} ({duration(seconds.low)} to {duration(seconds.high)})"


def _bytes(amount: Interval) -> str:
    likely, low, high = (value / 1e9 for value in (amount.likely, amount.low, amount.high))
    return f"about {likely:.2g} GB ({low:.2g} to {high:.2g})"
