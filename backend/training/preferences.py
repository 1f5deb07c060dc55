"""The objectives that learn from preferences: pairs of answers (dpo, orpo, cpo, simpo) and judged answers (kto)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from backend.core.encoding.examples import Example
from backend.core.packed_attention import MicroBatch
from backend.run.config import ObjectiveConfig
from backend.training import preference_losses as losses
from backend.training.forward import ForwardPass
from backend.training.loss import RowScores
from backend.training.objective import BatchLoss, Means, Objective, StepLoss, Supervised, Total, averages
from backend.training.preference_losses import Pairs
from backend.training.reference import Reference

_COMMON = ("logps/chosen", "logps/rejected", "entropy", "mean_token_accuracy")
_REWARDS = ("rewards/chosen", "rewards/rejected")


def objective_of(objective: ObjectiveConfig, reference: Reference | None = None) -> Objective:
    """Return what the settings ``objective`` name; ``reference`` is that of the rows it will be given.

    Raises ValueError if the method needs a reference and there is none.
    """
    facts = objective.facts
    if facts.needs_reference and reference is None:
        raise ValueError(f"{objective.method} needs a reference")
    if facts.is_pairwise:
        return PairObjective(objective, reference if facts.needs_reference else None)
    if facts.is_preference and reference is not None:
        return JudgedObjective(objective, reference)
    return Supervised()


class PairObjective:
    """The mean loss over pairs of answers, with a share of the mean cross-entropy of the better ones in some methods.

    Examples come in pairs, in either order. Rewards, log-probabilities and their names are TRL's.
    """

    group = 2

    def __init__(self, objective: ObjectiveConfig, reference: Reference | None) -> None:
        self._method, self._reference = objective.method, reference
        self._beta = objective.beta_or_default
        self._loss_of_pairs = _loss_of_pairs(objective)
        self._weight_of_answers = {
            "dpo": objective.losses.get("sft", 0.0),
            "orpo": 1.0,
            "cpo": objective.cpo_alpha,
        }.get(objective.method, 0.0)
        self._is_per_token = objective.method in {"orpo", "simpo"}
        extra: tuple[str, ...] = ("nll_loss",) if self._weight_of_answers else ()
        extra += ("log_odds_ratio", "log_odds_chosen") if objective.method == "orpo" else ()
        self.names: Sequence[str] = (*_REWARDS, "rewards/margins", "rewards/accuracies", *_COMMON, *extra)

    def of_step(self, batches: Sequence[MicroBatch], _: Total) -> StepLoss:
        """Return the loss of the step: pairs count alike, and so do the tokens of all better answers."""
        pairs = sum(len(batch.examples) for batch in batches) // 2
        tokens = sum(
            int(each.trained[1:].sum()) for batch in batches for each in batch.examples if each.label
        )

        def loss(forward: ForwardPass, batch: MicroBatch) -> BatchLoss:
            scores = forward.row_scores(batch)
            chosen, rejected = places(batch)
            both = self._pairs(scores, batch, chosen, rejected)
            share = self._loss_of_pairs(both).sum() / pairs
            if self._weight_of_answers:
                share = share - self._weight_of_answers * both.chosen.sum() / tokens
            return BatchLoss(share, self._means(both, scores, chosen))

        return loss

    def measured(self, means: Means) -> Mapping[str, float]:
        """Return the measurements of a step by name."""
        return averages(means)

    def _pairs(self, scores: RowScores, batch: MicroBatch, chosen: Tensor, rejected: Tensor) -> Pairs:
        reference = self._reference.of(batch, scores.logprob.device) if self._reference else None
        zeros = torch.zeros_like(scores.logprob) if reference is None else reference
        return Pairs(
            *(scores.logprob[each] for each in (chosen, rejected)),
            *(zeros[each] for each in (chosen, rejected)),
            *(scores.tokens[each] for each in (chosen, rejected)),
        )

    def _means(self, pairs: Pairs, scores: RowScores, chosen: Tensor) -> Means:
        better, worse = pairs.chosen_ratio.detach(), pairs.rejected_ratio.detach()
        said = pairs.chosen.detach(), pairs.rejected.detach()
        if self._is_per_token:
            better, worse = better / pairs.chosen_tokens, worse / pairs.rejected_tokens
            said = said[0] / pairs.chosen_tokens, said[1] / pairs.rejected_tokens
        rewards = self._beta * better, self._beta * worse
        per_pair = {
            "rewards/chosen": rewards[0],
            "rewards/rejected": rewards[1],
            "rewards/margins": rewards[0] - rewards[1],
            "rewards/accuracies": rewards[0] > rewards[1],
            "logps/chosen": said[0],
            "logps/rejected": said[1],
        }
        if self._method == "orpo":
            ratio = losses.log_odds_ratio(pairs).detach()
            per_pair |= {"log_odds_ratio": logsigmoid(ratio), "log_odds_chosen": ratio}
        means = {name: (float(each.sum()), float(len(better))) for name, each in per_pair.items()}
        tokens = float(pairs.chosen_tokens.sum())
        means["entropy"] = float(scores.entropy.sum()), float(scores.tokens.sum())
        means["mean_token_accuracy"] = float(scores.correct[chosen].sum()), tokens
        means["nll_loss"] = -float(pairs.chosen.detach().sum()), tokens
        return {name: means[name] for name in self.names}


def _loss_of_pairs(objective: ObjectiveConfig) -> Callable[[Pairs], Tensor]:
    """Return the loss of each pair, without the share of the better answers alone."""
    beta = objective.beta_or_default
    if objective.method == "orpo":
        return lambda pairs: -beta * logsigmoid(losses.log_odds_ratio(pairs))
    if objective.method == "simpo":
        return lambda pairs: losses.simpo(pairs, beta, objective.simpo_gamma)
    weights = {name: weight for name, weight in objective.losses.items() if name != "sft"}

    def weighted(pairs: Pairs) -> Tensor:
        found = torch.zeros_like(pairs.chosen)
        for name, weight in weights.items():
            found = found + weight * losses.PAIR_LOSSES[name](pairs, beta, objective.label_smoothing)
        return found

    return weighted


class JudgedObjective:
    """KTO: the mean loss over judged answers, against the mean log-ratio of answers to other prompts.

    That mean is taken over the whole step, before its gradient: it does not depend on how the step is split.
    """

    group = 1
    names: Sequence[str] = (*_REWARDS, *_COMMON, "kl")

    def __init__(self, objective: ObjectiveConfig, reference: Reference) -> None:
        self._losses, self._reference, self._beta = objective.losses, reference, objective.beta_or_default
        self._weights = objective.desirable_weight, objective.undesirable_weight

    def of_step(self, batches: Sequence[MicroBatch], total: Total) -> StepLoss:
        """Return the loss of the step. Answers to other prompts are scored first where it needs their mean."""
        rows = [example for batch in batches for example in batch.examples]
        kl = self._kl(rows, total) if "kto" in self._losses else 0.0

        def loss(forward: ForwardPass, batch: MicroBatch) -> BatchLoss:
            scores = forward.row_scores(batch)
            device = scores.logprob.device
            is_good = torch.tensor([bool(each.label) for each in batch.examples], device=device)
            ratio = scores.logprob - self._reference.of(batch, device)
            weights = torch.where(is_good, *self._weights)
            each = torch.zeros_like(ratio)
            for name, weight in self._losses.items():
                point = kl if name == "kto" else 0.0
                each = each + weight * losses.kto(ratio, is_good, self._beta, point)
            means = self._means(scores, ratio.detach(), is_good)
            means["kl"] = kl * len(batch.examples), float(len(batch.examples))
            return BatchLoss((weights * each).sum() / len(rows), means)

        return loss

    def measured(self, means: Means) -> Mapping[str, float]:
        """Return the measurements of a step by name; a side that the step does not have is absent."""
        found = averages(means)
        if all(name in found for name in _REWARDS):
            found["rewards/margins"] = found[_REWARDS[0]] - found[_REWARDS[1]]
        return found

    def _kl(self, rows: Sequence[Example], total: Total) -> float:
        def ratios(batch: MicroBatch, scores: RowScores) -> float:
            return float((scores.logprob - self._reference.of_mismatched(batch, scores.logprob.device)).sum())

        return max(0.0, total([self._reference.mismatched(row) for row in rows], ratios) / len(rows))

    def _means(self, scores: RowScores, ratio: Tensor, is_good: Tensor) -> dict[str, tuple[float, float]]:
        def over(values: Tensor, chosen: Tensor) -> tuple[float, float]:
            return float(values.detach()[chosen].sum()), float(chosen.sum())

        rewards, logps = self._beta * ratio, scores.logprob
        return {
            "rewards/chosen": over(rewards, is_good),
            "rewards/rejected": over(rewards, ~is_good),
            "logps/chosen": over(logps, is_good),
            "logps/rejected": over(logps, ~is_good),
            "entropy": (float(scores.entropy.sum()), float(scores.tokens.sum())),
            "mean_token_accuracy": (
                float(scores.correct[is_good].sum()),
                float(scores.tokens[is_good].sum()),
            ),
        }


def places(batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Return where the better and where the worse answer of each pair stands among the rows, int64 [pairs] each."""
    labels = [bool(example.label) for example in batch.examples]
    chosen = [first if labels[first] else first + 1 for first in range(0, len(labels), 2)]
    device = batch.labels.device
    return torch.tensor(chosen, device=device), torch.tensor([place ^ 1 for place in chosen], device=device)
