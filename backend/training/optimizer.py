"""The optimizers by ``training.optim``, their state as named tensors for checkpoints, and the gradient norm.

All but AdamW come from a library as they are. Some suit only hidden matrices, those between embeddings and head; the
rest of the model then gets the optimizer that ``_FOR_THE_REST`` names.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from peft.tuners.lora.layer import Embedding as AdaptedEmbedding
from torch import Tensor, nn
from transformers import PreTrainedModel

from backend.core.packages import require_bitsandbytes
from backend.errors import ModelError
from backend.run.config import TrainingConfig

LION_BETAS = (0.9, 0.99)
"""Those of the paper (Chen et al., 2023, arXiv:2302.06675); bitsandbytes itself takes those of Adam."""
MUON_MOMENTUM = 0.95
_CONSTANTS = frozenset({"qmap1", "qmap2"})
"""The table of 8-bit numbers, which bitsandbytes keeps beside the state of each parameter."""

Groups = list[dict[str, Any]]


def build_optimizer(
    parameters: Mapping[str, nn.Parameter],
    training: TrainingConfig,
    *,
    peak: float,
    embeddings: Collection[str] = (),
) -> torch.optim.Optimizer:
    """Return the optimizer that ``training.optim`` names, with weight decay on matrices only.

    ``peak`` is the highest learning rate of the run. ``embeddings`` are the names of those parameters that belong to
    embeddings or the head. Each group has an ``lr_factor``: its learning rate is that many times the run's.
    Its state is created here and not, as the libraries do, in the first step: it can then be restored from a
    checkpoint before any step is taken. Raises ModelError (``needs-bitsandbytes``, ``no-embeddings``).
    """
    if training.embedding_learning_rate and not embeddings:
        raise ModelError(
            "training.embedding_learning_rate is for embeddings and head, and this run trains neither.",
            remedy="Leave it out, or train them too.",
            code="no-embeddings",
        )
    for_the_rest = _FOR_THE_REST.get(training.optim, training.optim)
    shares = dict[str, dict[str, nn.Parameter]]()
    for name, part in parameters.items():
        is_hidden_matrix = part.ndim == 2 and name not in embeddings
        kind = training.optim if is_hidden_matrix else for_the_rest
        shares.setdefault(kind, {})[name] = part
    optimizers = [
        _BUILDERS[kind](_groups(share, training, peak, embeddings), training)
        for kind, share in shares.items()
    ]
    return optimizers[0] if len(optimizers) == 1 else _SideBySide(optimizers)


def check_optimizer(training: TrainingConfig) -> None:
    """Raise ModelError ``needs-bitsandbytes`` if ``training.optim`` is of that package and it is not installed."""
    if training.optim in _OF_BITSANDBYTES:
        require_bitsandbytes("training.optim")


def embeddings_and_head(model: PreTrainedModel, parameters: Mapping[str, nn.Parameter]) -> frozenset[str]:
    """Return which ``parameters`` belong to embeddings or the head of ``model``, adapters of embeddings included.

    An adapter of the head is a pair of hidden matrices like any other.
    """
    ends = [part for part in model.modules() if isinstance(part, nn.Embedding | AdaptedEmbedding)]
    ends += [end for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None]
    within = {id(part) for end in ends for part in end.parameters()}
    return frozenset(
        name
        for name, part in parameters.items()
        if id(part) in within and ".lora_A." not in name and ".lora_B." not in name
    )


def _groups(
    parameters: Mapping[str, nn.Parameter],
    training: TrainingConfig,
    peak: float,
    embeddings: Collection[str],
) -> Groups:
    """Return ``parameters`` in groups of one weight decay and one learning rate, in the order of their first ones."""
    groups = dict[tuple[bool, float], dict[str, Any]]()
    for name, part in sorted(parameters.items(), key=lambda item: item[1].ndim < 2):
        factor = _lr_factor(name, part, training, peak, is_embedding=name in embeddings)
        is_matrix = part.ndim >= 2
        group = {
            "params": [],
            "lr": peak * factor,
            "lr_factor": factor,
            "weight_decay": training.weight_decay if is_matrix else 0.0,
        }
        groups.setdefault((is_matrix, factor), group)["params"].append(part)
    return list(groups.values())


def _lr_factor(
    name: str, part: nn.Parameter, training: TrainingConfig, peak: float, *, is_embedding: bool
) -> float:
    """Return the learning rate of a parameter, relative to ``peak``.

    LoRA+ (Hayou et al., 2024, arXiv:2402.12354) trains the B matrices faster than the A matrices; peft gives the rate
    of B to vectors too, such as biases.
    """
    if is_embedding:
        return training.embedding_learning_rate / peak if training.embedding_learning_rate else 1.0
    if training.loraplus_lr_ratio and (".lora_B." in name or part.ndim == 1):
        return training.loraplus_lr_ratio
    return 1.0


def _adamw(groups: Groups, training: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, 2019, arXiv:1711.05101)."""
    optimizer = torch.optim.AdamW(
        groups, betas=(training.adam_beta1, training.adam_beta2), eps=training.adam_epsilon, fused=True
    )
    for part in _parameters(groups):
        optimizer.state[part] = {
            "step": torch.zeros((), dtype=torch.float32, device=part.device),
            "exp_avg": torch.zeros_like(part, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(part, memory_format=torch.preserve_format),
        }
    return optimizer


def _adafactor(groups: Groups, _: TrainingConfig) -> torch.optim.Optimizer:
    """Adafactor (Shazeer & Stern, 2018, arXiv:1804.04235), without momentum.

    torch scales a step by the size of the weights, but never below ``eps[1]``. With 1 the learning rate means what it
    means for AdamW, as in transformers (``scale_parameter=False``), for weights whose root mean square is below 1.
    Otherwise the B matrices of LoRA, which begin at zero, would hardly move.
    """
    optimizer = torch.optim.Adafactor(groups, eps=(None, 1.0), foreach=False)
    for part in _parameters(groups):
        state = {"step": torch.zeros((), dtype=torch.float32)}
        if part.ndim > 1:
            state["row_var"] = part.new_zeros((*part.shape[:-1], 1))
            state["col_var"] = part.new_zeros((*part.shape[:-2], 1, part.shape[-1]))
        else:
            state["variance"] = torch.zeros_like(part)
        optimizer.state[part] = state
    return optimizer


def _muon(groups: Groups, _: TrainingConfig) -> torch.optim.Optimizer:
    """Muon (Jordan et al., 2024), scaled to the step size of AdamW (Liu et al., 2025, arXiv:2502.16982)."""
    optimizer = torch.optim.Muon(groups, momentum=MUON_MOMENTUM, adjust_lr_fn="match_rms_adamw")
    for part in _parameters(groups):
        optimizer.state[part] = {"momentum_buffer": torch.zeros_like(part)}
    return optimizer


def _adamw_8bit(groups: Groups, training: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW with moments of 8 bits (Dettmers et al., 2021, arXiv:2110.02861)."""
    betas = (training.adam_beta1, training.adam_beta2)
    return _from_bitsandbytes("AdamW8bit", groups, betas=betas, eps=training.adam_epsilon)


def _lion_32bit(groups: Groups, _: TrainingConfig) -> torch.optim.Optimizer:
    """Lion (Chen et al., 2023, arXiv:2302.06675): every weight moves by the learning rate, up or down."""
    return _from_bitsandbytes("Lion32bit", groups, betas=LION_BETAS)


def _lion_8bit(groups: Groups, _: TrainingConfig) -> torch.optim.Optimizer:
    """Lion with its moment in 8 bits."""
    return _from_bitsandbytes("Lion8bit", groups, betas=LION_BETAS)


def _from_bitsandbytes(name: str, groups: Groups, **options: Any) -> torch.optim.Optimizer:
    require_bitsandbytes("training.optim")
    library = importlib.import_module("bitsandbytes.optim")
    optimizer: torch.optim.Optimizer = getattr(library, name)(groups, **options)
    for index, group in enumerate(optimizer.param_groups):
        for place, part in enumerate(group["params"]):
            optimizer.init_state(group, part, index, place)  # type: ignore[attr-defined]
    return optimizer


_BUILDERS: Mapping[str, Callable[[Groups, TrainingConfig], torch.optim.Optimizer]] = {
    "adamw_torch": _adamw,
    "adafactor": _adafactor,
    "muon": _muon,
    "adamw_8bit": _adamw_8bit,
    "lion_32bit": _lion_32bit,
    "lion_8bit": _lion_8bit,
}
"""By ``training.optim``; a test holds its keys against the choices of the configuration."""
_OF_BITSANDBYTES = frozenset({"adamw_8bit", "lion_32bit", "lion_8bit"})
_FOR_THE_REST = {"muon": "adamw_torch", "adamw_8bit": "adamw_torch", "lion_8bit": "lion_32bit"}
"""Muon is made for hidden matrices. Moments of 8 bits are too coarse for embeddings (Dettmers et al., 2021, §2.3)."""


class _SideBySide(torch.optim.Optimizer):
    """Several optimizers, each with parameters of its own, as one."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([group for one in optimizers for group in one.param_groups], {})
        self._optimizers = optimizers
        for one in optimizers:
            self.state.update(one.state)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Let each optimizer take its step; there is no ``closure``."""
        del closure
        for one in self._optimizers:
            one.step()


def _parameters(groups: Groups) -> list[nn.Parameter]:
    return [part for group in groups for part in group["params"]]


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Return the optimizer's state as ``<parameter name>.<key>`` -> tensor, such as ``exp_avg``.

    They are not copies, except for counters that are no tensors.
    """
    return {
        f"{name}.{key}": torch.as_tensor(value)
        for name, part in parameters.items()
        for key, value in optimizer.state[part].items()
        if key not in _CONSTANTS
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Copy named tensors into the optimizer's state. Raises KeyError if the names differ."""
    own = optimizer_tensors(optimizer, parameters)
    if own.keys() != tensors.keys():
        raise KeyError(f"optimizer state differs in {sorted(own.keys() ^ tensors.keys())[:3]}")
    for name, part in parameters.items():
        state = optimizer.state[part]
        for key, value in state.items():
            if key in _CONSTANTS:
                continue
            if isinstance(value, Tensor):
                value.copy_(tensors[f"{name}.{key}"])
            else:
                state[key] = int(tensors[f"{name}.{key}"])


def gradient_norm(gradients: Sequence[Tensor]) -> float:
    """Return the L2 norm over all gradients together: the norm of their norms, taken in a fixed order."""
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients])))
