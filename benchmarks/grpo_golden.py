"""Golden values of GRPO from TRL 1.16 itself: advantages, losses and their gradients on fixed completions.

Run in an environment with trl==1.16.0: ``python benchmarks/grpo_golden.py > tests/golden/grpo.json``. TRL's
``_compute_loss`` runs as it is, over logits that are given; the advantages are computed by the lines of its trainer
that do it, cut out of the installed source.
"""

from __future__ import annotations

import inspect
import json
import math
import textwrap
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from trl import GRPOTrainer
from trl.trainer.utils import nanstd

GENERATIONS, LONGEST, VOCABULARY, TEMPERATURE = 4, 6, 5, 0.8
LENGTHS = [3, 6, 1, 4, 5, 2, 6, 6]
CUT_OFF = [1, 7]
"""Completions that reached the most tokens."""
NAN = math.nan
REWARDS = [
    [1.0, 0.2], [0.0, 0.4], [NAN, 0.9], [1.0, NAN], [NAN, NAN], [0.5, 0.1], [0.0, 0.3], [1.0, 0.7],
]  # fmt: skip
WEIGHTS = [1.0, 0.5]


def logits() -> torch.Tensor:
    """Return fixed logits, float64 [completions, tokens, vocabulary]."""
    count = len(LENGTHS) * LONGEST * VOCABULARY
    return (torch.arange(count, dtype=torch.float64) * 0.7).sin().mul(2).view(-1, LONGEST, VOCABULARY)


def labels() -> torch.Tensor:
    """Return the ids of the completions, int64 [completions, tokens]."""
    return torch.arange(len(LENGTHS) * LONGEST).mul(3).remainder(VOCABULARY).view(-1, LONGEST)


def advantages(scale: str) -> torch.Tensor:
    """Return what the lines of TRL's trainer make of ``REWARDS``."""
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    begin = source.index("        unscorable_mask =")
    end = source.index("        # Slice to keep only the local part")
    trainer = SimpleNamespace(
        scale_rewards=scale,
        reward_weights=torch.tensor(WEIGHTS, dtype=torch.float64),
        multi_objective_aggregation="sum_then_normalize",
        reward_funcs=WEIGHTS,
    )
    names: dict[str, Any] = {
        "self": trainer,
        "torch": torch,
        "nanstd": nanstd,
        "device": "cpu",
        "num_generations": GENERATIONS,
        "rewards_per_func": torch.tensor(REWARDS, dtype=torch.float64),
    }
    exec(textwrap.dedent(source[begin:end]), names)  # noqa: S102 - of the installed trainer
    found: torch.Tensor = names["advantages"]
    return found


def loss(loss_type: str, better: torch.Tensor, *, masks: bool) -> tuple[float, list[Any], float]:
    """Return (loss, its gradient in the logits, mean entropy) as TRL's ``_compute_loss`` has them."""
    given = logits().requires_grad_()
    mask = (torch.arange(LONGEST)[None] < torch.tensor(LENGTHS)[:, None]).int()
    if masks:
        mask[CUT_OFF] = 0

    def scored(*_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor, None]:
        each = (given / TEMPERATURE).log_softmax(-1)
        logps = each.gather(-1, labels()[..., None])[..., 0]
        return logps, -(each.exp() * each).sum(-1).detach(), None

    class Alone:
        num_processes = 1
        reduce = staticmethod(lambda value, **_: value)
        gather = staticmethod(lambda value: value)

    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=scored, accelerator=Alone, model=SimpleNamespace(training=True),
        loss_type=loss_type, beta=0.0, epsilon_low=0.2, epsilon_high=0.2, aux_loss_enabled=False,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token",
        use_vllm=False, _entropy_bonus_enabled=False, max_completion_length=LONGEST,
        current_gradient_accumulation_steps=1, _metrics={"train": defaultdict(list)},
        args=SimpleNamespace(delta=None, steps_per_generation=1, use_bias_correction_kl=True),
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.zeros(len(LENGTHS), 1, dtype=torch.int64),
        "prompt_mask": torch.ones(len(LENGTHS), 1, dtype=torch.int64),
        "completion_ids": labels(),
        "completion_mask": mask,
        "advantages": better,
        "num_items_in_batch": mask.sum(),
    }
    value = GRPOTrainer._compute_loss(trainer, None, inputs)
    value.backward()
    gradient: Any = given.grad
    return float(value.detach()), gradient.tolist(), trainer._metrics["train"]["entropy"][0]


def main() -> None:
    """Print all golden values as JSON."""
    found: dict[str, Any] = {
        "generations": GENERATIONS, "longest": LONGEST, "temperature": TEMPERATURE, "lengths": LENGTHS,
        "cut_off": CUT_OFF, "weights": WEIGHTS, "logits": logits().tolist(), "labels": labels().tolist(),
        "rewards": [[None if math.isnan(value) else value for value in row] for row in REWARDS],
        "advantages": {scale: advantages(scale).tolist() for scale in ("group", "batch", "none")},
        "losses": [],
    }  # fmt: skip
    for loss_type in ("dapo", "dr_grpo", "grpo"):
        for masks in (False, True):
            value, gradient, entropy = loss(loss_type, advantages("group"), masks=masks)
            found["losses"].append(
                {
                    "loss_type": loss_type,
                    "masks": masks,
                    "loss": value,
                    "gradient": gradient,
                    "entropy": entropy,
                }
            )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
