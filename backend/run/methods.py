"""The facts about each tuning method, free of torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tuning:
    """One value of ``tuning.method``.

    ``result``: the folder of a run that its result lies in. ``trains_all``: every weight is trained, else an adapter
    beside frozen ones. ``rate_at_576``: a peak learning rate that works at hidden size 576.
    """

    result: str
    trains_all: bool
    rate_at_576: float


TUNINGS: Mapping[str, Tuning] = {
    "lora": Tuning(result="adapter", trains_all=False, rate_at_576=2e-3),
    "full": Tuning(result="model", trains_all=True, rate_at_576=2e-4),
}
"""By ``tuning.method``; a test holds its keys against the choices of the configuration."""


def is_target(name: str, targets: str | Sequence[str]) -> bool:
    """Return whether peft's ``target_modules`` match the module ``name``; ``all-linear`` is no name."""
    if isinstance(targets, str):
        try:
            return re.fullmatch(targets, name) is not None
        except re.error:
            return False
    return any(name == target or name.endswith(f".{target}") for target in targets)


def default_learning_rate(method: str, width: int) -> float:
    """Return a peak learning rate that works for a model whose hidden states have ``width`` numbers.

    Measured for LoRA at width 576 (see docs/performance.md) and carried over to other widths as width^-0.78, the
    slope "LoRA Without Regret" (Schulman et al., 2025) found for Llama models; full fine-tuning takes a tenth.
    """
    return float(f"{TUNINGS[method].rate_at_576 * (576 / width) ** 0.78:.2g}")
