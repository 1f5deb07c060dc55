"""AdamW over the trainable parameters, its state as named tensors for checkpoints, and the gradient norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from backend.run.config import TrainingConfig


def build_optimizer(parameters: Mapping[str, nn.Parameter], training: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov & Hutter, 2019, arXiv:1711.05101) with weight decay on matrices only.

    Its state is created here and not, as torch does, in the first step: it can then be restored from a checkpoint
    before any step is taken.
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
    """Return the optimizer's state as ``<parameter name>.<exp_avg|exp_avg_sq|step>`` -> tensor; not copies."""
    return {
        f"{name}.{key}": value
        for name, part in parameters.items()
        for key, value in optimizer.state[part].items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Copy named tensors into the optimizer's state. Raises KeyError if the names differ."""
    own = optimizer_tensors(optimizer, parameters)
    if own.keys() != tensors.keys():
        raise KeyError(f"optimizer state differs in {sorted(own.keys() ^ tensors.keys())[:3]}")
    for name, value in own.items():
        value.copy_(tensors[name])


def gradient_norm(gradients: Sequence[Tensor]) -> float:
    """Return the L2 norm over all gradients together: the norm of their norms, taken in a fixed order."""
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients])))
