"""Judge the pairs of a run by the model that it starts from, as soon as their log-probabilities are known.

The trainer calls this after its reference pass; a method without a reference can call it with its first evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.errors import Problem
from backend.utils.interval_utils import score_interval

FEW_PAIRS = 20
SWAPPED_BELOW = 1 / 3
"""A model prefers the better answer in about half of the pairs or more; far below, the columns are likely swapped."""
FOREIGN_NATS = 4.0
"""Nats per token. Small models need 2 to 3 for plain English; more than 4 means that the form is foreign to them."""


def reference_doubts(
    chosen: Sequence[float],
    rejected: Sequence[float],
    chosen_tokens: Sequence[int],
    rejected_tokens: Sequence[int],
) -> tuple[Problem, ...]:
    """Return what the model before training says against the pairs; () if nothing, or for fewer than 20 pairs.

    ``chosen`` and ``rejected`` are the summed log-probabilities of the answers in nats, ``…_tokens`` their numbers of
    trained tokens, an entry for each pair. ``swapped-columns``: the model finds the rejected answer likelier in most
    pairs, as a whole and per token (as a whole alone, longer answers are less likely). ``foreign-answers``: the model
    hardly expects the chosen answers at all. Both are for a person to look at, not to stop a run.
    """
    sums = np.asarray([chosen, rejected], np.float64)
    counts = np.maximum(np.asarray([chosen_tokens, rejected_tokens], np.float64), 1)
    if sums.shape[1] < FEW_PAIRS:
        return ()
    means = sums / counts
    right = [int(np.sum(each[0] > each[1])) for each in (sums, means)]
    pairs = sums.shape[1]
    found = []
    if all(score_interval(each, pairs)[1] < SWAPPED_BELOW for each in right):
        found.append(
            Problem(
                "swapped-columns",
                f"Before training, the model finds the chosen answer likelier in only {max(right):,} of {pairs:,} "
                "pairs.",
                "Look whether chosen and rejected are swapped. If the rejected answers are this model's own, it is "
                "as it should be.",
            )
        )
    if (nats := -float(sums[0].sum() / counts[0].sum())) > FOREIGN_NATS:
        found.append(
            Problem(
                "foreign-answers",
                f"Before training, the model hardly expects the chosen answers: {nats:.1f} nats per token, where "
                "plain text takes 2 to 3.",
                "Fine-tune it on good answers first (objective.method sft) and start from that model, or look "
                "whether the chat template is its own.",
            )
        )
    return tuple(found)
