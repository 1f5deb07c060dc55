"""The losses over better and worse answers, as pure functions of their log-probabilities.

Names and definitions are those of TRL 1.16 (DPOTrainer, KTOTrainer and, among its experiments, CPO and ORPO); the
papers are named at each. Log-probabilities are sums over the tokens of an answer, in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LEAST_SURPRISE = 1e-7
"""Nats per token below which an answer counts as certain in ORPO: the odds of a certain answer are infinite."""


@dataclass(frozen=True)
class Pairs:
    """The log-probabilities of the better (``chosen``) and the worse (``rejected``) answers of n pairs, float64 [n].

    ``ref_chosen`` and ``ref_rejected`` are those of the model before training; zeros where a loss has no reference.
    ``chosen_tokens`` and ``rejected_tokens`` count the tokens of the answers.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def chosen_ratio(self) -> Tensor:
        """The log-ratio of the trained model to the reference on the better answers."""
        return self.chosen - self.ref_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        """The same on the worse answers."""
        return self.rejected - self.ref_rejected

    @property
    def margin(self) -> Tensor:
        """The difference of both log-ratios."""
        return self.chosen_ratio - self.rejected_ratio

    @property
    def mean_margin(self) -> Tensor:
        """The difference of both log-ratios, each divided by the tokens of its answer."""
        return self.chosen_ratio / self.chosen_tokens - self.rejected_ratio / self.rejected_tokens


def _sigmoid(pairs: Pairs, beta: float, smoothing: float) -> Tensor:
    """DPO (Rafailov et al., 2023, arXiv:2305.18290); with ``smoothing`` cDPO (Mitchell, 2023)."""
    wanted = logsigmoid(beta * pairs.margin)
    if not smoothing:
        return -wanted
    return -(1 - smoothing) * wanted - smoothing * logsigmoid(-beta * pairs.margin)


def _robust(pairs: Pairs, beta: float, smoothing: float) -> Tensor:
    """Unbiased where a share ``smoothing`` of pairs is the wrong way round (arXiv:2403.00409); may be negative."""
    clean, flipped = logsigmoid(beta * pairs.margin), logsigmoid(-beta * pairs.margin)
    return (smoothing * flipped - (1 - smoothing) * clean) / (1 - 2 * smoothing)


def _ipo(pairs: Pairs, beta: float, _: float) -> Tensor:
    """IPO (arXiv:2310.12036), per token as its authors computed it, so TRL says."""
    return (pairs.mean_margin - 1 / (2 * beta)) ** 2


def _hinge(pairs: Pairs, beta: float, _: float) -> Tensor:
    """SLiC (arXiv:2305.10425)."""
    return torch.relu(1 - beta * pairs.margin)


def _sigmoid_norm(pairs: Pairs, beta: float, _: float) -> Tensor:
    """DPO per token (Tülu 3, arXiv:2411.15124); ``beta`` is 5 to 10 there."""
    return -logsigmoid(beta * pairs.mean_margin)


def _apo_zero(pairs: Pairs, beta: float, _: float) -> Tensor:
    """APO (arXiv:2408.06266, equation 7), where the better answers are better than the model's own."""
    return 1 - torch.sigmoid(beta * pairs.chosen_ratio) + torch.sigmoid(beta * pairs.rejected_ratio)


def _apo_down(pairs: Pairs, beta: float, _: float) -> Tensor:
    """APO (equation 8), where the model's own answers are better than both."""
    return torch.sigmoid(beta * pairs.chosen_ratio) + 1 - torch.sigmoid(beta * pairs.margin)


def _exo_pair(pairs: Pairs, beta: float, smoothing: float) -> Tensor:
    """EXO (arXiv:2402.00856, equation 16) for two answers."""
    better, worse = logsigmoid(beta * pairs.margin), logsigmoid(-beta * pairs.margin)
    expected = math.log1p(-smoothing), math.log(smoothing)
    return better.exp() * (better - expected[0]) + worse.exp() * (worse - expected[1])


def _nca_pair(pairs: Pairs, beta: float, _: float) -> Tensor:
    """NCA (arXiv:2402.05369)."""
    chosen, rejected = beta * pairs.chosen_ratio, beta * pairs.rejected_ratio
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def _bco_pair(pairs: Pairs, beta: float, _: float) -> Tensor:
    """BCO (arXiv:2404.04656) on pairs, without its running mean, as in TRL."""
    return -logsigmoid(beta * pairs.chosen_ratio) - logsigmoid(-beta * pairs.rejected_ratio)


def _sppo_hard(pairs: Pairs, beta: float, _: float) -> Tensor:
    """SPPO (arXiv:2405.00675, equation 4.7) with probability 1 for the better answer."""
    return (pairs.chosen_ratio - 0.5 / beta) ** 2 + (pairs.rejected_ratio + 0.5 / beta) ** 2


PAIR_LOSSES: Mapping[str, Callable[[Pairs, float, float], Tensor]] = {
    "sigmoid": _sigmoid,
    "robust": _robust,
    "ipo": _ipo,
    "hinge": _hinge,
    "sigmoid_norm": _sigmoid_norm,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "exo_pair": _exo_pair,
    "nca_pair": _nca_pair,
    "bco_pair": _bco_pair,
    "sppo_hard": _sppo_hard,
}
"""(pairs, beta, label_smoothing) -> the loss of each pair, float64 [n]; by ``objective.loss_type`` of dpo and cpo."""


def simpo(pairs: Pairs, beta: float, gamma: float) -> Tensor:
    """Return SimPO's loss (Meng et al., 2024, arXiv:2405.14734) for each pair; it has no reference."""
    return -logsigmoid(beta * pairs.mean_margin - gamma)


def log_odds_ratio(pairs: Pairs) -> Tensor:
    """Return ORPO's log odds ratio (Hong et al., 2024, arXiv:2403.07691, equation 4) of each pair."""
    chosen, rejected = pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens
    return (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, exact on both sides of -ln 2; an answer that is certain counts as nearly so."""
    x = x.clamp(max=-LEAST_SURPRISE)
    near = x > -math.log(2)
    # each branch sees only values that suit it, since a gradient of infinity times zero would be NaN
    far = torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    return torch.where(near, torch.log(-torch.expm1(torch.where(near, x, -1.0))), far)


def kto(ratio: Tensor, is_good: Tensor, beta: float, kl: float) -> Tensor:
    """Return KTO's loss (Ethayarajh et al., 2024, arXiv:2402.01306, equation 7) for each judged answer.

    ``ratio`` float64 [n]: log-ratios of the trained model to the reference. ``is_good`` bool [n]. ``kl``: the mean
    log-ratio of answers to other prompts, at least 0. With 0 it is APO's ``apo_zero_unpaired``.
    """
    return 1 - torch.sigmoid(torch.where(is_good, beta * (ratio - kl), beta * (kl - ratio)))
