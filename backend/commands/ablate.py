"""``tunesmith train … --ablate SEEDS``: trains with and without augmentation and says whether it helped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from backend.commands.carry_out import train_here
from backend.commands.output import print_json, say
from backend.commands.run_phrases import outcome_record
from backend.commands.tables import table
from backend.manager.ablation import Difference, compare, last_scores, pairs
from backend.manager.launch import launch
from backend.run.config import RunConfig
from backend.run.folder import RunDir
from backend.run.outcomes import exit_code
from backend.run.reports import DataCheck
from backend.run.schedule import total_steps

if TYPE_CHECKING:
    from backend.training.inputs import Inputs


def ablate(config: RunConfig, found: Inputs, seeds: int, runs: Path, *, as_json: bool) -> int:
    """Carry out all runs one after the other and print the comparison; stops with the exit code of one that fails.

    ``found`` is what ``check_inputs`` says. Every run stays in ``runs`` under its own name.
    """
    checked = DataCheck(found.findings, tuple(config.data.accept))
    steps = total_steps(found.train_rows, config.training)
    planned = list(pairs(config, seeds, steps))
    if not as_json:
        say(f"{2 * seeds} runs of {steps} steps: with and without augmentation, {seeds} seeds")
    made: list[RunDir] = []
    for each in (each for pair in planned for each in pair):
        made.append(launch(runs, each, "create", checked=checked))
        code = _carried_out(made[-1], as_json=as_json)
        if code:
            return code
    with_it, without = made[::2], made[1::2]
    differences = compare([last_scores(run) for run in with_it], [last_scores(run) for run in without])
    if as_json:
        names = {"with": [run.id for run in with_it], "without": [run.id for run in without]}
        found_out = {"differences": [asdict(each) for each in differences], "warnings": found.warnings}
        print_json({"steps": steps, "runs": names, **found_out})
    else:
        _print(differences)
    return 0


def _carried_out(run: RunDir, *, as_json: bool) -> int:
    """Train one run; the exit code. A run that does not finish says so, since nothing follows it."""
    outcome = train_here(run, quiet=as_json)
    code = exit_code(outcome)
    record = outcome_record(run, outcome)
    if not as_json:
        say(f"{run.id}: {outcome.message} {record['remedy']}".strip())
    elif code:
        print_json({"run": run.id, "path": run.path, **record})
    return code


def _print(differences: Sequence[Difference]) -> None:
    table(
        ("held out", "without", "with", "difference", "95 % interval", "verdict"),
        [
            (
                each.score.replace("_", " "),
                f"{fmean(each.without):.4f}",
                f"{fmean(each.with_it):.4f}",
                f"{each.mean:+.4f}",
                f"{each.low:+.4f} to {each.high:+.4f}",
                each.verdict,
            )
            for each in differences
        ],
    )
    say("The interval is that of the mean over the seeds; where it holds 0, the difference may be chance.")
    say("More seeds make it narrower.")
