"""How evenly a step of the food examples is cut: distinct tokens that the busiest lane computes.

``python benchmarks/step_split.py``: the cut of today, which no machine changes, beside one micro-batch a lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backend import data_pipeline
from backend.core.model_resolver import resolve_model
from backend.core.packed_attention import MicroBatch
from backend.core.tokenizer import load_tokenizer
from backend.run.config import DataConfig
from backend.training.batching import micro_batches, pack, step_rows

ROWS = Path(__file__).parents[1] / "examples" / "food-category" / "train.jsonl"
STEPS = 6


def busiest(batches: Sequence[MicroBatch], lanes: int) -> int:
    """Tokens of the lane that computes most, where each free lane takes the next micro-batch."""
    work = [0] * lanes
    for batch in batches:
        work[work.index(min(work))] += len(batch.input_ids)
    return max(work)


def main() -> None:
    """Print both for steps of 8 to 64 rows on 1 to 8 lanes."""
    data = DataConfig(train=str(ROWS), validation=0.0)
    tokenizer = load_tokenizer(resolve_model("smollm2-135m"))
    rows = list(data_pipeline.encode(data_pipeline.load(data, seed=42).train, tokenizer, data))
    for size in (8, 16, 32, 64):
        order = step_rows(len(rows), size, 42, 0)
        steps = [[rows[index] for index in next(order)] for _ in range(STEPS)]
        for lanes in (1, 2, 4, 8):
            now = np.mean([busiest(pack(s, budget=1024, parts=micro_batches(s)), lanes) for s in steps])
            by_lane = np.mean([busiest(pack(s, budget=1024, parts=lanes), lanes) for s in steps])
            print(f"{size} rows, {lanes} lanes: {now:.0f} tokens; one micro-batch a lane: {by_lane:.0f}")


if __name__ == "__main__":
    main()
