"""Random SIGKILLs of the real trainer; every run must end with the bits of the undisturbed one.

    make rel-kill N=25
    python benchmarks/rel_kill.py -n 5 --model smollm2-135m --recipes lora

For each recipe one run is left alone; then runs of the same recipe are killed at random moments and started
again until they are finished, N kills in all. Weights, optimizer moments, losses and sample answers are compared.
Exits 1 on any difference.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from rel_trainer import RECIPES, Workshop, bits, finish, kill_after

from backend.run.folder import RunDir
from backend.run.reports import RunStatus


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=25, help="kills in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="", help="a model to train instead of the tiny one")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    options = parser.parse_args()
    dice = random.Random(options.seed)  # noqa: S311  dice, no secret
    began = time.perf_counter()
    kills = differing = runs = 0
    with tempfile.TemporaryDirectory(prefix="rel-kill-") as folder:
        shop = Workshop(Path(folder), options.model)
        references = {recipe: shop.new_run(recipe) for recipe in options.recipes}
        seconds = {recipe: finish(run) for recipe, run in references.items()}
        expected = {recipe: bits(run) for recipe, run in references.items()}
        while kills < options.n:
            recipe = options.recipes[runs % len(options.recipes)]
            run = shop.new_run(recipe, like=references[recipe])
            kills += disturb(run, seconds[recipe], dice, options.n - kills)
            wrong = sorted(name for name, digest in bits(run).items() if expected[recipe].get(name) != digest)
            wrong += sorted(expected[recipe].keys() - bits(run).keys())
            runs += 1
            differing += bool(wrong)
            attempts = run.latest_attempt_number()
            print(
                f"{recipe:>13}: {kills:4} kills so far, {attempts} attempts, {wrong or 'same bits'}",
                flush=True,
            )
    print(f"kills: {kills}, runs: {runs}, differing: {differing}, {time.perf_counter() - began:.0f} s")
    return 1 if differing else 0


def is_at_rest(run: RunDir) -> bool:
    """Whether a killed run shows within two seconds that nobody works on it.

    A child in a session of its own, which the trainer was just starting, holds the run's lock until it is a program
    of its own; killing the trainer's group does not reach it. A run killed before it recorded an attempt is new.
    """
    at_rest = {RunStatus.INTERRUPTED, RunStatus.CREATED}
    deadline = time.monotonic() + 2
    while run.status() not in at_rest and time.monotonic() < deadline:
        time.sleep(0.01)
    return run.status() in at_rest


def disturb(run: RunDir, seconds: float, dice: random.Random, allowed: int) -> int:
    """Kill a run at random moments, at most ``allowed`` times, until it is finished; the number of kills."""
    kills = 0
    while run.status() is not RunStatus.FINISHED:
        if kills == allowed:
            finish(run)
        elif kill_after(run, dice.uniform(0.0, seconds)):
            kills += 1
            if not is_at_rest(run) and run.result_folder() is None:
                raise SystemExit(f"a killed run shows as {run.state()}")
    return kills


if __name__ == "__main__":
    sys.exit(main())
