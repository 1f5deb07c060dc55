"""The facts about each way to tune a model and each objective to train it on, free of torch."""

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


PAIRS, JUDGED, ANSWERS, TEXTS = "preference", "judged", "chat", "text"
"""Kinds of rows, as ``data.records.Row.kind`` names them: pairs of answers, judged answers, answers, plain texts."""


@dataclass(frozen=True)
class Objective:
    """One value of ``objective.method``.

    ``rows``: the kinds of rows that it learns from. ``losses``: values of ``objective.loss_type``, the default first.
    ``beta``: the default of ``objective.beta``. ``needs_reference``: its loss compares with the untrained model.
    ``cuts_texts``: a text longer than an example may be becomes several. ``samples``: it learns from answers that the
    model gives while it trains, and of the rows needs the prompts only. ``rate``: its peak learning rate as a share
    of that of supervised fine-tuning.
    """

    rows: frozenset[str]
    losses: tuple[str, ...] = ()
    beta: float | None = None
    needs_reference: bool = False
    cuts_texts: bool = False
    samples: bool = False
    rate: float = 1.0

    @property
    def is_preference(self) -> bool:
        """True if it learns from answers that are compared or judged."""
        return bool(self.rows & {PAIRS, JUDGED})

    @property
    def is_pairwise(self) -> bool:
        """True if each of its rows is a pair of answers, whose loss cannot be split."""
        return self.rows == {PAIRS}


_SUPERVISED = frozenset({ANSWERS, TEXTS, "tokens", "segments"})
OBJECTIVES: Mapping[str, Objective] = {
    "sft": Objective(_SUPERVISED),
    "cpt": Objective(frozenset({TEXTS, "tokens"}), cuts_texts=True),
    "dpo": Objective(
        frozenset({PAIRS}),
        (
            *("sigmoid", "robust", "ipo", "hinge", "sigmoid_norm", "apo_zero", "apo_down", "exo_pair"),
            *("nca_pair", "bco_pair", "sppo_hard", "sft"),
        ),
        beta=0.1,
        needs_reference=True,
        rate=0.05,
    ),
    "kto": Objective(
        frozenset({PAIRS, JUDGED}), ("kto", "apo_zero_unpaired"), beta=0.1, needs_reference=True, rate=0.05
    ),
    "orpo": Objective(frozenset({PAIRS}), beta=0.1, rate=0.05),
    "cpo": Objective(frozenset({PAIRS}), ("sigmoid", "hinge", "ipo"), beta=0.1, rate=0.05),
    "simpo": Objective(frozenset({PAIRS}), beta=2.5, rate=0.05),
    "grpo": Objective(frozenset({ANSWERS}), ("dapo", "dr_grpo", "grpo"), samples=True, rate=0.05),
}
"""By ``objective.method``; a test holds its keys against the choices of the configuration."""


@dataclass(frozen=True)
class Optim:
    """One value of ``training.optim``.

    ``rate``: the peak learning rate that suits it, relative to that of AdamW. ``matrix_bytes`` and ``rest_bytes``:
    bytes of its state for each parameter of a hidden matrix, and of embeddings, head and vectors. ``uses_adam``: the
    settings of Adam (``adam_beta1`` and so on) act on at least a part of the model.
    """

    rate: float
    matrix_bytes: float
    rest_bytes: float
    uses_adam: bool


OPTIMS: Mapping[str, Optim] = {
    "adamw_torch": Optim(rate=1.0, matrix_bytes=8, rest_bytes=8, uses_adam=True),
    "adafactor": Optim(rate=1.0, matrix_bytes=0, rest_bytes=0, uses_adam=False),
    "muon": Optim(rate=1.0, matrix_bytes=4, rest_bytes=8, uses_adam=True),
    "lion_32bit": Optim(rate=0.2, matrix_bytes=4, rest_bytes=4, uses_adam=False),
    "lion_8bit": Optim(rate=0.2, matrix_bytes=1, rest_bytes=4, uses_adam=False),
    "adamw_8bit": Optim(rate=1.0, matrix_bytes=2, rest_bytes=8, uses_adam=True),
}
"""By ``training.optim``. Adafactor keeps one number for each row and column of a matrix, next to nothing."""


def methods_for(kind: str) -> Sequence[str]:
    """Return the methods that learn from rows of a kind, the usual one first."""
    usual = usual_method(kind)
    return [usual, *(name for name, facts in OBJECTIVES.items() if kind in facts.rows and name != usual)]


def usual_method(kind: str) -> str:
    """Return the method that rows of a kind are usually given to."""
    return {PAIRS: "dpo", JUDGED: "kto", TEXTS: "cpt"}.get(kind, "sft")


def is_target(name: str, targets: str | Sequence[str]) -> bool:
    """Return whether peft's ``target_modules`` match the module ``name``; ``all-linear`` is no name."""
    if isinstance(targets, str):
        try:
            return re.fullmatch(targets, name) is not None
        except re.error:
            return False
    return any(name == target or name.endswith(f".{target}") for target in targets)


def fits_pattern(name: str, key: str) -> bool:
    """Return whether a ``key`` of peft's ``rank_pattern`` or ``alpha_pattern`` fits the module ``name``."""
    try:
        return re.match(rf"(.*\.)?({key})$", name) is not None
    except re.error:
        return False


def layer_number(name: str) -> int | None:
    """Return the number of the layer that peft's ``layers_to_transform`` finds in a module's name; None for none."""
    found = re.match(r".*?\.[^.]*\.(\d+)\.", name)
    return int(found[1]) if found else None


def default_learning_rate(
    method: str, width: int, objective: str = "sft", *, optim: str = "adamw_torch"
) -> float:
    """Return a peak learning rate that works for a model whose hidden states have ``width`` numbers.

    Measured for LoRA at width 576 (see docs/performance.md) and carried over to other widths as width^-0.78, the
    slope "LoRA Without Regret" (Schulman et al., 2025) found for Llama models; full fine-tuning takes a tenth.
    ``optim`` is the value of ``training.optim``.
    """
    rate = TUNINGS[method].rate_at_576 * OBJECTIVES[objective].rate * OPTIMS[optim].rate
    return float(f"{rate * (576 / width) ** 0.78:.2g}")
