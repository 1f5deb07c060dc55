"""AdamW over the trainable parameters, and the learning rate as a pure function of the step. Floor F1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from backend.config import TrainingConfig, resolve_steps


def default_learning_rate(method: str, width: int) -> float:
    """A peak learning rate that works for a model whose hidden states have ``width`` numbers.

    Measured for LoRA at width 576 (see docs/performance.md) and carried over to other widths as width^-0.78, the
    slope "LoRA Without Regret" (Schulman et al., 2025) found for Llama models; full fine-tuning takes a tenth.
    """
    at_576 = 2e-4 if method == "full" else 2e-3
    return float(f"{at_576 * (576 / width) ** 0.78:.2g}")


def build_optimizer(parameters: Mapping[str, nn.Parameter], training: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) with weight decay on matrices only.

    Its state is made at once, so that a checkpoint after any step, the first included, has all of it.
    """
    matrices = [part for part in parameters.values() if part.ndim >= 2]
    others = [part for part in parameters.values() if part.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training.learning_rate or 0.0,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        fused=True,
    )
    for part in parameters.values():
        optimizer.state[part] = {
            "step": torch.zeros((), dtype=torch.float32, device=part.device),
            "exp_avg": torch.zeros_like(part, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(part, memory_format=torch.preserve_format),
        }
    return optimizer


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimizer's state as named tensors, ``<parameter>.<exp_avg|exp_avg_sq|step>``; not copies."""
    return {
        f"{name}.{key}": value
        for name, part in parameters.items()
        for key, value in optimizer.state[part].items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Copy named tensors back into the optimizer's state. Raises KeyError when the names differ."""
    own = optimizer_tensors(optimizer, parameters)
    if own.keys() != tensors.keys():
        raise KeyError(f"optimizer state differs in {sorted(own.keys() ^ tensors.keys())[:3]}")
    for name, value in own.items():
        value.copy_(tensors[name])


def learning_rate_factor(training: TrainingConfig, total_steps: int) -> Callable[[int], float]:
    """The factor on the peak learning rate for each 1-based step: linear warm-up, then the chosen shape to 0."""
    warmup = resolve_steps(training.warmup_steps, total_steps)
    kind = training.lr_scheduler_type

    def factor(step: int) -> float:
        if step <= warmup:
            return step / warmup
        if kind == "constant":
            return 1.0
        left = (total_steps - step + 1) / max(1, total_steps - warmup)
        return left if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))

    return factor


def gradient_norm(gradients: list[Tensor]) -> float:
    """Global L2 norm over all gradients, summed in fp32 in their order."""
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients])))
