"""The measurements of a run: the tags of ``metrics.jsonl`` and TensorBoard, its lines, and its best evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from backend.run.reports import EvalReport, StepReport

TRAIN_LOSS = "train/loss"
GRAD_NORM = "train/grad_norm"
LEARNING_RATE = "train/learning_rate"
TOKENS_PER_SECOND = "train/tokens_per_second"
TOKENS_SEEN = "train/tokens_seen"
TRAINED_TOKENS = "train/trained_tokens"
EPOCH = "train/epoch"
EVAL_LOSS = "eval/loss"
EVAL_TRAINED_TOKENS = "eval/trained_tokens"
EXACT_MATCH = "eval/exact_match"
BITS_PER_BYTE = "eval/bits_per_byte"
FORGETTING_LOSS = "eval/forgetting_loss"

NLL_LOSS, KD_LOSS = "train/nll_loss", "train/kd_loss"
"""Parts of a loss that has several: cross-entropy of the answers, divergence from a teacher."""

REWARDS_CHOSEN, REWARDS_REJECTED = "rewards/chosen", "rewards/rejected"
MARGINS, ACCURACIES, KL = "rewards/margins", "rewards/accuracies", "kl"
"""What a preference method measures, after ``train/`` and ``eval/``."""
UNDECIDED = "undecided between both answers"

REWARD, REWARD_STD, FLAT_GROUPS = "reward", "reward_std", "frac_reward_zero_std"
ENTROPY, MEAN_LENGTH, CLIPPED = "entropy", "completions/mean_length", "completions/clipped_ratio"
"""What is measured of sampled answers, after ``train/`` and, of the first, ``eval/``."""


def reward_words(measured: Mapping[str, object], prefix: str = "") -> str:
    """Return the mean reward and the share of flat groups in words; "" for a method without rewards.

    ``prefix`` is that of the names, such as ``train/``.
    """
    reward, flat = (number(measured.get(prefix + name)) for name in (REWARD, FLAT_GROUPS))
    words = [
        "" if math.isnan(reward) else f"reward {reward:.3f}",
        "" if math.isnan(flat) else f"{flat:.0%} of groups flat",
    ]
    return " · ".join(filter(None, words))


def preference_words(measured: Mapping[str, object], prefix: str = "") -> str:
    """Return how often and how clearly the better answer is preferred, in words; "" for other methods.

    ``prefix`` is that of the names, such as ``train/``.
    """
    share, margin = (number(measured.get(prefix + name)) for name in (ACCURACIES, MARGINS))
    if share == margin == 0:  # before training a reference is the model itself, and all pairs are ties
        return UNDECIDED
    words = [
        "" if math.isnan(share) else f"prefers the better answer {share:.0%}",
        "" if math.isnan(margin) else f"margin {margin:.2g}",
    ]
    return " · ".join(filter(None, words))


def metrics_record(report: StepReport | EvalReport) -> dict[str, object]:
    """The line of ``metrics.jsonl`` for a report: where it stands, and its numbers by their tag.

    ``kind`` is ``train`` or ``eval``; the tags are those of TensorBoard, see ``metrics_scalars``.
    """
    place: dict[str, object] = {
        "step": report.step,
        "epoch": report.epoch,
        "seconds": round(report.seconds, 4),
    }
    if isinstance(report, StepReport):
        return {"kind": "train", "total_steps": report.total_steps, **place, **metrics_scalars(report)}
    return {
        "kind": "eval",
        "rows": report.rows,
        "scored_rows": report.scored_rows,
        **place,
        **metrics_scalars(report),
    }


def metrics_scalars(report: StepReport | EvalReport) -> dict[str, float]:
    """The curves a report adds a point to, by the tag names TensorBoard users expect.

    Losses are nats per trained token; ``EXACT_MATCH`` is a share in [0, 1], absent where it means nothing.
    """
    if isinstance(report, StepReport):
        return {
            TRAIN_LOSS: report.loss,
            GRAD_NORM: report.grad_norm,
            LEARNING_RATE: report.learning_rate,
            TOKENS_PER_SECOND: report.tokens_per_second,
            TOKENS_SEEN: report.tokens_seen,
            TRAINED_TOKENS: report.trained_tokens,
            EPOCH: report.epoch,
            **{f"train/{name}": value for name, value in report.measured.items()},
        }
    scalars: dict[str, float] = {}
    if report.loss is not None:
        scalars = {EVAL_LOSS: report.loss, EVAL_TRAINED_TOKENS: report.trained_tokens}
    if report.exact_match is not None:
        scalars[EXACT_MATCH] = report.exact_match
    return scalars | {f"eval/{name}": value for name, value in report.measured.items()}


def number(value: object) -> float:
    """Return a figure of a report as a number, also one that is written as text; NaN for anything else."""
    try:
        return float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        return math.nan


def held_out_losses(records: Iterable[Mapping[str, object]]) -> dict[int, float]:
    """Return the held-out loss of each evaluated step, from the lines of ``metrics.jsonl``.

    One that is not finite is infinite.
    """
    losses = {
        step: number(record[EVAL_LOSS])
        for record in records
        if EVAL_LOSS in record and isinstance(step := record.get("step"), int)
    }
    return {step: loss if math.isfinite(loss) else math.inf for step, loss in losses.items()}


def forgetting_words(records: Iterable[Mapping[str, object]], step: int) -> str:
    """Return the loss on general texts before training and at ``step``, as a sentence; "" where not measured."""
    losses = {
        record["step"]: number(record[FORGETTING_LOSS]) for record in records if FORGETTING_LOSS in record
    }
    if step == 0 or not losses.keys() >= {0, step}:
        return ""
    return f"Loss on general texts: {losses[0]:.2f} → {losses[step]:.2f} nats per token."


def is_better(step: int, loss: float, best: float | None) -> bool:
    """Return whether an evaluation is the best so far, with ``best`` the lowest held-out loss before it.

    The untrained model, step 0, never is, nor a loss that is not finite; of equals the first is.
    """
    return step > 0 and math.isfinite(loss) and (best is None or loss < best)


def best_step(losses: Mapping[int, float]) -> int | None:
    """Return the step with the best held-out loss, see ``is_better``; None where none counts."""
    best: int | None = None
    for step in sorted(losses):
        if is_better(step, losses[step], None if best is None else losses[best]):
            best = step
    return best
