"""Score a bag of words with naive Bayes on the food example: what a model has to beat. Seconds, no model.

``make naive-bayes``. Multinomial, add-one smoothing, lower-cased words of the prompt.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "food-category"


def rows(name: str) -> list[tuple[list[str], str]]:
    """Return the words of each prompt and its answer."""
    lines = (EXAMPLE / name).read_text(encoding="utf-8").splitlines()
    parsed = [json.loads(line) for line in lines]
    return [(re.findall(r"\w+", row["prompt"].lower()), row["completion"]) for row in parsed]


def right() -> tuple[int, int]:
    """Return how many held-out rows are answered rightly, and how many there are."""
    labels: Counter[str] = Counter()
    words: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for found, label in rows("train.jsonl"):
        labels[label] += 1
        words[label].update(found)
    known = {word for counts in words.values() for word in counts}
    total = {label: sum(counts.values()) + len(known) for label, counts in words.items()}

    def score(label: str, found: list[str]) -> float:
        seen = (math.log((words[label][word] + 1) / total[label]) for word in found if word in known)
        return math.log(labels[label]) + sum(seen)

    held_out = rows("eval.jsonl")
    hits = sum(max(labels, key=lambda label: score(label, found)) == answer for found, answer in held_out)
    return hits, len(held_out)


if __name__ == "__main__":
    hits, asked = right()
    print(f"naive Bayes: {hits} of {asked}, {hits / asked:.1%}")
