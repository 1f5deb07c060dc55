"""How often the intervals of `tunesmith evaluate` hold, and how often its verdicts are wrong, by simulation.

python benchmarks/verdicts.py [-n 2000]
"""

from __future__ import annotations

import argparse

import numpy as np

from backend.inference.evals.paired import Verdict, difference, mean_interval, share_interval
from backend.inference.evals.sequential import Sequential

ROWS = (40, 160, 1_000)
TABLES = {
    "alike": (0.45, 0.08, 0.08, 0.39),
    "better": (0.50, 0.20, 0.05, 0.25),
    "much better": (0.25, 0.55, 0.05, 0.15),
    "both poor": (0.10, 0.15, 0.10, 0.65),
}
"""The shares of rows that both models pass, only the first, only the second, none."""


def passes(drawn: np.random.Generator, table: tuple[float, ...], rows: int) -> tuple[np.ndarray, np.ndarray]:
    kind = drawn.choice(4, rows, p=table)
    return (kind <= 1).astype(float), (kind % 2 == 0).astype(float)


def shares(drawn: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores like those of token F1: many are 0 or 1, and both models find the same rows hard; means of 0.5."""
    ease = drawn.beta(0.8, 0.8, rows)
    one = np.where(
        drawn.random(rows) < 0.4, drawn.random(rows) < ease, drawn.beta(1 + 3 * ease, 4 - 3 * ease)
    )
    other = np.where(
        drawn.random(rows) < 0.4, drawn.random(rows) < ease, drawn.beta(1 + 3 * ease, 4 - 3 * ease)
    )
    return one, other


def coverage(runs: int, rows: int, seed: int = 0) -> dict[str, float]:
    """The share of ``runs`` simulated evaluations in which an interval holds the true value."""
    drawn = np.random.default_rng(seed)
    held: dict[str, list[bool]] = {}
    for name, table in TABLES.items():
        true, share = table[1] - table[2], table[0] + table[1]
        for _ in range(runs):
            ours, theirs = passes(drawn, table, rows)
            found = difference(ours, theirs)
            held.setdefault(f"difference, {name}", []).append(found.low <= true <= found.high)
            low, high = share_interval(int(ours.sum()), rows)
            held.setdefault(f"share of {share:.2f}", []).append(low <= share <= high)
    for _ in range(runs):
        ours, theirs = shares(drawn, rows)
        found = difference(ours, theirs)
        held.setdefault("difference of scores", []).append(found.low <= 0 <= found.high)
        low, high = mean_interval(ours)
        held.setdefault("mean score", []).append(low <= 0.5 <= high)
    return {name: float(np.mean(values)) for name, values in held.items()}


def wrong_sequential(runs: int, rows: int = 1_000, seed: int = 0) -> float:
    """The share of runs without a difference that are decided at some row."""
    drawn = np.random.default_rng(seed)
    wrong = 0
    for _ in range(runs):
        state = Sequential()
        ours, theirs = passes(drawn, TABLES["alike"], rows)
        for one, other in zip(ours, theirs, strict=True):
            state = state.after([one], [other])
            if state.verdict() is not Verdict.SAME:
                wrong += 1
                break
    return wrong / runs


def rows_until_decided(runs: int, table: tuple[float, ...], rows: int = 1_000, seed: int = 0) -> float:
    """The median number of rows after which the sequential test says "better"; ``rows`` where it does not."""
    drawn = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        state = Sequential()
        read = 0
        for one, other in zip(*passes(drawn, table, rows), strict=True):
            state, read = state.after([one], [other]), read + 1
            if state.verdict() is Verdict.BETTER:
                break
        found.append(read)
    return float(np.median(found))


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("-n", type=int, default=2_000, help="simulated evaluations for each number")
    runs = asked.parse_args().n
    print(f"{runs:,} simulated evaluations each. 95 % intervals that hold the true value:")
    found = {rows: coverage(runs, rows) for rows in ROWS}
    print(f"{'':28}" + "".join(f"{rows:>9,} rows" for rows in ROWS))
    for name in found[ROWS[0]]:
        print(f"{name:28}" + "".join(f"{found[rows][name]:>14.1%}" for rows in ROWS))
    print(f"Wrong sequential verdicts where nothing differs, 1,000 looks: {wrong_sequential(runs):.1%}")
    for name in ("better", "much better"):
        print(f"Rows until it says so, {name}: {rows_until_decided(200, TABLES[name]):.0f}")


if __name__ == "__main__":
    main()
