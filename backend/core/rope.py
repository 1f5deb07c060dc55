"""Rotary embeddings whose frequencies depend on the length of the row.

In transformers these are the rope types ``dynamic`` and ``longrope`` (LongRoPE, Ding et al., 2024, arXiv:2402.13753).
It stores the frequencies of the longest row so far in the module, so rows of one batch, and of earlier batches,
change each other's positions.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedConfig


def steady_length(model: nn.Module) -> int | None:
    """Return the most tokens up to which positions do not depend on a row's length; None if they never do."""
    borders = [border for module in model.modules() for border in _borders(module)]
    return min(borders, default=None)


def _borders(module: nn.Module) -> Iterator[int]:
    kinds = getattr(module, "rope_type", None)
    for layer_type, kind in kinds.items() if isinstance(kinds, dict) else [(None, kinds)]:
        if kind == "longrope":
            settings: Any = module.config.rope_parameters  # type: ignore[union-attr]
            settings = settings[layer_type] if layer_type else settings
            yield int(settings["original_max_position_embeddings"])
        elif isinstance(kind, str) and "dynamic" in kind:
            yield int(module.original_max_seq_len)  # type: ignore[arg-type]


def rope_border(config: PreTrainedConfig) -> int | None:
    """Return the most tokens for which longrope uses its short factors; None without longrope.

    Decoding asks for this one only: ``dynamic`` changes nothing within ``max_position_embeddings``, which limits
    every prompt and answer anyway.
    """
    text = config.get_text_config()
    given = getattr(text, "rope_parameters", None) or {}
    each = [given] if "rope_type" in given else [part for part in given.values() if isinstance(part, dict)]
    own = getattr(text, "original_max_position_embeddings", None)
    found = [
        part.get("original_max_position_embeddings") or own
        for part in each
        if part.get("rope_type") == "longrope"
    ]
    return min((int(border) for border in found if border), default=None)


def forget_lengths(model: nn.Module) -> None:
    """Make each forward pass of ``model`` compute its rotary frequencies anew, unaffected by other passes."""
    for module in model.modules():
        if any(True for _ in _borders(module)):
            module.forward = types.MethodType(_forward_in_copy, module)


def _forward_in_copy(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run the module's own forward on a copy, since it writes frequencies into its attributes and buffers.

    A copy and not a reset: lanes run the same module at once. It is cheap: a few vectors of half a head's size.
    """
    own = copy.copy(self)
    own._buffers = {name: None if kept is None else kept.clone() for name, kept in self._buffers.items()}
    return type(self).forward(own, *args, **kwargs)
