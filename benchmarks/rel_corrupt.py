"""Damaged checkpoints: every one must be noticed, and the run must go on from the good one before it.

    make rel-corrupt N=500

N times one random file of the newest checkpoint of a real run gets one flipped bit, is cut short, emptied, filled
with zeros or removed. Then some runs are resumed for real past such damage, and must end with the bits of the
undisturbed run. Exits 1 when one damage went unnoticed or one run differs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rel_trainer import RECIPES, Workshop, bits, finish, kill_after

from backend.run.folder import RunDir
from backend.training.checkpoint import newest_good

DAMAGES = ("flip", "cut", "empty", "zeros", "missing")


def damage(folder: Path, dice: random.Random) -> str:
    """Damage one file of a checkpoint; what was done, in words."""
    path = dice.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    kind = dice.choice(DAMAGES)
    data = bytearray(path.read_bytes())
    if kind == "flip":
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    changed = {
        "flip": bytes(data),
        "cut": bytes(data[: dice.randrange(len(data))]),
        "empty": b"",
        "zeros": bytes(len(data)),
    }
    path.unlink()
    if kind in changed:
        path.write_bytes(changed[kind])
    return f"{kind} {path.name}"


def content(folder: Path) -> dict[str, bytes]:
    """The files of a checkpoint but its manifest."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)  # noqa: S311  dice, no secret
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rel-corrupt-") as folder:
        shop = Workshop(Path(folder))
        references = {recipe: shop.new_run(recipe) for recipe in RECIPES}
        for run in references.values():
            finish(run)
        seen = Counter(
            attack(run, dice) for run in list(references.values()) * (options.n // len(references))
        )
        tried = [(recipe, finished) for recipe in RECIPES for finished in (False, True)]
        same = [
            survives(shop, references[recipe], recipe, dice, finished=finished) for recipe, finished in tried
        ]
    print(f"damages: {dict(seen)}, resumed past damage: {len(same)}, differing: {same.count(False)}")
    print(f"{time.perf_counter() - began:.0f} s")
    return 1 if seen["unnoticed"] or not all(same) else 0


def attack(run: RunDir, dice: random.Random) -> str:
    """Damage a copy of a run's checkpoints and look for the newest good one; how that went."""
    with tempfile.TemporaryDirectory(prefix="rel-corrupt-copy-") as place:
        checkpoints = Path(place) / "checkpoints"
        shutil.copytree(run.checkpoints, checkpoints)
        newest = checkpoints / run.checkpoint(run.newest_checkpoint_step()).name
        before = content(newest)
        what = damage(newest, dice)
        found, complaints = newest_good(checkpoints)
        if found is None:
            print(f"nothing was found after: {what}")
            return "unnoticed"
        if found.path != newest and complaints:
            return "fallen back"
        if content(newest) == before:
            return "harmless"  # a bit of the manifest that means nothing
        print(f"unnoticed: {what}")
        return "unnoticed"


def survives(shop: Workshop, reference: RunDir, recipe: str, dice: random.Random, *, finished: bool) -> bool:
    """Whether a run whose newest checkpoint is damaged ends with the same bits and no damaged checkpoint.

    It is damaged half-way, or else when the run had finished but lost its result.
    """
    run = shop.new_run(recipe, like=reference)
    if finished:
        finish(run)
        shutil.rmtree(run.result_folder() or run.adapter)
        run.outcome_file.unlink()
    seconds = 1.0
    while len(run.checkpoint_steps()) < 2:
        kill_after(run, seconds)
        seconds *= 1.5
    what = damage(run.checkpoint(run.newest_checkpoint_step()), dice)
    finish(run)
    same = bits(run) == bits(reference)
    whole = newest_good(run.checkpoints)[1] == []
    print(
        f"{recipe:>13}: {what}: {'same bits' if same else 'DIFFERS'}, {'all good' if whole else 'DAMAGE KEPT'}"
    )
    return same and whole


if __name__ == "__main__":
    sys.exit(main())
