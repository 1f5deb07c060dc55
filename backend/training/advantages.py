"""From the rewards of sampled answers to the weights of their log-probabilities, as pure functions in float64.

An answer is compared with the others to the same prompt (GRPO; Shao et al., 2024, "DeepSeekMath", arXiv:2402.03300,
section 4.1). Where the answers come from the weights that are updated, the ratio of both policies is one, and the
gradient is that of log-probabilities weighted by advantages. The sums and normalisers are those of TRL 1.16.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Scale = Literal["group", "batch", "none"]
SMALLEST_SPREAD = 1e-4
"""Added to the standard deviation that rewards are divided by."""


def advantages(rewards: np.ndarray, scale: Scale) -> np.ndarray:
    """Return by how much each answer is better than those to the same prompt, float64 [prompts, generations].

    ``rewards`` has the same shape; NaN where no reward says anything of an answer, which then neither counts nor
    learns. ``scale``: divide by the standard deviation (with Bessel's correction) in the group, in the whole batch,
    or by nothing. Equal rewards give exactly zero.
    """
    better = rewards - _mean(rewards, axis=1)
    if scale != "none":
        spread = std(rewards, axis=1) if scale == "group" else std(rewards)
        better = better / (spread + SMALLEST_SPREAD)
    return np.where(np.isnan(rewards) | flat(rewards)[:, None], 0.0, better)


def flat(rewards: np.ndarray) -> np.ndarray:
    """Return which groups of ``rewards`` teach nothing, all equal or unknown: bool [prompts]."""
    known = ~np.isnan(rewards)
    highest, lowest = (np.where(known, rewards, edge) for edge in (-np.inf, np.inf))
    return np.asarray(highest.max(1) <= lowest.min(1))


def token_weights(
    advantage: np.ndarray,
    lengths: np.ndarray,
    is_learned: np.ndarray,
    loss_type: str,
    max_completion_length: int,
) -> np.ndarray:
    """Return the weight of each token of each answer of a step, float64 [answers]: advantage over normaliser.

    ``lengths`` counts the tokens of answers. Answers that are not ``is_learned``, since they were cut off, weigh
    nothing. ``grpo``: the mean over tokens, then over answers. ``dapo``: the mean over all tokens that are learned.
    ``dr_grpo``: the sum over answers times ``max_completion_length``.
    """
    normaliser = {
        "grpo": len(lengths) * np.maximum(lengths, 1),
        "dapo": np.full(len(lengths), max(1, int(lengths[is_learned].sum()))),
        "dr_grpo": np.full(len(lengths), len(lengths) * max_completion_length),
    }[loss_type]
    return np.where(is_learned, advantage / normaliser, 0.0)


def std(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Return the standard deviation with Bessel's correction, NaN left out; 0 for a single value."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis, keepdims=True)
    squares = np.where(known, (values - _mean(values, axis=axis)) ** 2, 0.0)
    return np.asarray(np.sqrt(squares.sum(axis=axis, keepdims=True) / np.maximum(count - 1, 1)))


def mean(values: np.ndarray) -> float:
    """Return the mean of the values that are known, NaN if none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _mean(values: np.ndarray, axis: int | None) -> np.ndarray:
    known = ~np.isnan(values)
    summed = np.where(known, values, 0.0).sum(axis=axis, keepdims=True)
    return np.asarray(summed / np.maximum(known.sum(axis=axis, keepdims=True), 1))
