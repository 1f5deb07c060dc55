"""With and without: one configuration trained twice a seed, and whether the difference is more than chance.

What is switched off in the second run of a pair is augmentation and NEFTune; split, steps and the start of the
adapter are the same, and so is the order unless rows are added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from backend.errors import ConfigError, Problem, marked
from backend.run.config import AugmentationConfig, RunConfig
from backend.run.folder import RunDir
from backend.run.metrics import EVAL_LOSS, EXACT_MATCH

MAX_SEEDS = 10
SCORES = {"loss": EVAL_LOSS, "exact_match": EXACT_MATCH}

# Student's t, two-sided 95 %, by degrees of freedom from 1.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Difference:
    """A score with minus without, one pair a seed: the mean and the 95 % interval of the mean (Student's t)."""

    score: str
    with_it: tuple[float, ...]
    without: tuple[float, ...]
    mean: float
    low: float
    high: float
    verdict: Literal["better", "worse", "no difference"]


def pairs(config: RunConfig, seeds: int, steps: int) -> Iterator[tuple[RunConfig, RunConfig]]:
    """(with, without) for the configured seed and those that follow it, each of ``steps`` optimizer steps.

    Raises ConfigError when there is nothing to leave out, nothing held out, or not 2 to ``MAX_SEEDS`` seeds.
    """
    problems = []
    if not 2 <= seeds <= MAX_SEEDS:
        problems.append(
            Problem(
                "ablate",
                f"{seeds} is no number of seeds.",
                f"Give 2 to {MAX_SEEDS}, such as {marked('ablate', '3')}.",
            )
        )
    if _without(config) == config:
        remedy = "Switch something on, such as augmentation.typos or training.neftune_noise_alpha."
        problems.append(Problem("augmentation", "is off, so there is nothing to leave out.", remedy))
    if config.evaluation.early_stopping_patience is not None:
        remedy = "Leave it empty: the runs of a pair train for equally many steps."
        problems.append(
            Problem("evaluation.early_stopping_patience", "cannot be used in an ablation.", remedy)
        )
    if not config.data.validation:
        problems.append(
            Problem("data.validation", "is 0, so nothing can be compared.", "Hold rows out, such as 0.2.")
        )
    if problems:
        raise ConfigError(problems)
    training = config.training.model_copy(update={"max_steps": steps})
    for seed in range(config.seed, config.seed + seeds):
        seeded = config.model_copy(
            update={"seed": seed, "training": training, "name": _named(config, "with", seed)}
        )
        yield seeded, _without(seeded).model_copy(update={"name": _named(config, "without", seed)})


def _without(config: RunConfig) -> RunConfig:
    training = config.training.model_copy(update={"neftune_noise_alpha": None})
    return config.model_copy(update={"augmentation": AugmentationConfig(), "training": training})


def _named(config: RunConfig, side: str, seed: int) -> str:
    return f"{config.name[:30]} {side} augmentation, seed {seed}".strip()


def last_scores(run: RunDir) -> dict[str, float]:
    """Return the scores of the last evaluation of a run."""
    last = [record for record in run.metrics().records if record["kind"] == "eval"][-1]
    return {name: float(str(last[tag])) for name, tag in SCORES.items() if tag in last}


def compare(
    with_it: Sequence[Mapping[str, float]], without: Sequence[Mapping[str, float]]
) -> list[Difference]:
    """The scores of the runs, in pairs: held-out ``loss``, and ``exact_match`` where every run has one.

    The verdict is "no difference" where the interval holds 0.
    """
    scores = [name for name in SCORES if all(name in each for each in (*with_it, *without))]
    return [
        _difference(name, [each[name] for each in with_it], [each[name] for each in without])
        for name in scores
    ]


def _difference(score: str, with_it: Sequence[float], without: Sequence[float]) -> Difference:
    apart = [one - other for one, other in zip(with_it, without, strict=True)]
    mean = fmean(apart)
    spread = _T[len(apart) - 2] * stdev(apart) / len(apart) ** 0.5
    low, high = mean - spread, mean + spread
    verdict: Literal["better", "worse", "no difference"] = "no difference"
    if low > 0 or high < 0:
        verdict = "better" if (mean < 0) == (score == "loss") else "worse"
    return Difference(score, tuple(with_it), tuple(without), mean, low, high, verdict)
