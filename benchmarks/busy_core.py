"""Training speed while another process holds one core, as a share of the idle speed.

    make bench-busy

Idle and busy rounds alternate in one process; the other process spins on the first core for the whole of a busy
round. Exits 1 when the median busy speed is below --goal of the idle one.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from our_loop import SEED, read_rows, tunesmith

from backend.core.model_resolver import resolve_model
from backend.training.batching import epoch_order


def _spin(core: int) -> None:
    os.sched_setaffinity(0, {core})
    while True:
        pass


@contextlib.contextmanager
def held_core() -> Iterator[None]:
    """Another process at full load on this process's first core."""
    core = min(os.sched_getaffinity(0))
    other = multiprocessing.get_context("spawn").Process(target=_spin, args=(core,), daemon=True)
    other.start()
    try:
        yield
    finally:
        other.kill()
        other.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="examples/food-category/train.jsonl")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--goal", type=float, default=0.4)
    options = parser.parse_args()
    model = Path(resolve_model(options.model))
    _, rows = read_rows(model, options.data)
    order = epoch_order(len(rows), SEED, 0)[options.batch : options.steps * options.batch]
    tokens = sum(len(rows[index].input_ids) for index in order)
    speeds: dict[str, list[float]] = {"idle": [], "one core held": []}
    for number in range(options.rounds):
        for name, others in (("idle", contextlib.nullcontext()), ("one core held", held_core())):
            with others:
                speeds[name].append(tokens / tunesmith(model, rows, options.batch, options.steps))
            print(f"round {number + 1}  {name:14s} {speeds[name][-1]:6.0f} tokens/s", flush=True)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    share = medians["one core held"] / medians["idle"]
    print(
        f"median idle {medians['idle']:.0f}, one core held {medians['one core held']:.0f} tokens/s: {share:.0%}"
    )
    return 0 if share >= options.goal else 1


if __name__ == "__main__":
    sys.exit(main())
