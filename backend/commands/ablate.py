"""``tunesmith train … --ablate SEEDS``: trains with and without augmentation and says whether it helped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from backend.commands.output import after_run, print_json, say, table
from backend.commands.phrases import outcome_record
from backend.run.folder import RunDir
from backend.run.metrics import EVAL_LOSS, EXACT_MATCH

SCORES = {"loss": EVAL_LOSS, "exact_match": EXACT_MATCH}

if TYPE_CHECKING:
    from backend.manager.ablation import Difference
    from backend.run.config import RunConfig
    from backend.training.inputs import Inputs


def ablate(config: RunConfig, found: Inputs, seeds: int, runs: Path, *, as_json: bool) -> int:
    """Carry out all runs one after the other and print the comparison; stops with the exit code of one that fails.

    ``found`` is what ``check_inputs`` says. Every run stays in ``runs`` under its own name.
    """
    from backend.manager.ablation import compare, pairs  # noqa: PLC0415
    from backend.manager.launch import launch  # noqa: PLC0415
    from backend.run.reports import DataCheck  # noqa: PLC0415
    from backend.run.schedule import total_steps  # noqa: PLC0415 - torch loads here

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
    differences = compare([_scores(run) for run in with_it], [_scores(run) for run in without])
    if as_json:
        names = {"with": [run.id for run in with_it], "without": [run.id for run in without]}
        found_out = {"differences": [asdict(each) for each in differences], "warnings": found.warnings}
        print_json({"steps": steps, "runs": names, **found_out})
    else:
        _print(differences)
    return 0


def _carried_out(run: RunDir, *, as_json: bool) -> int:
    """Train one run; the exit code. A run that does not finish says so, since nothing follows it."""
    from backend.commands.progress import ProgressView  # noqa: PLC0415
    from backend.run.outcomes import exit_code  # noqa: PLC0415
    from backend.trainer_main import run as train_run  # noqa: PLC0415

    with ProgressView(quiet=as_json) as view:
        outcome = train_run(run, view)
    code = exit_code(outcome)
    record = outcome_record(run, outcome)
    if not as_json:
        say(f"{run.id}: {outcome.message} {record['remedy']}".strip())
    elif code:
        print_json({"run": run.id, "path": run.path, **record})
    after_run(run)
    return code


def _scores(run: RunDir) -> dict[str, float]:
    """The scores of the last evaluation of a run."""
    last = [record for record in run.metrics().records if record["kind"] == "eval"][-1]
    return {name: float(str(last[tag])) for name, tag in SCORES.items() if tag in last}


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
