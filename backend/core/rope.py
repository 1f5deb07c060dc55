"""Rotary positions whose frequencies depend on the length of the row: where that begins, and one row at a time.

Two kinds of transformers do so (``dynamic``, and ``longrope``: LongRoPE, Ding et al., 2024, arXiv:2402.13753).
transformers keeps the frequencies of the longest row it saw in the module, so that rows side by side, and rows
before, change each other.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedConfig


def steady_length(model: nn.Module) -> int | None:
    """Return the longest row in tokens whose positions do not depend on its length; None where no row's do."""
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
    """Return the most tokens of a row that longrope's short factors are for; None without longrope.

    Of interest where answers are written: the other scaling that looks at the length, ``dynamic``, changes nothing
    inside ``max_position_embeddings``, which no such row exceeds.
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
    """Let every pass of ``model`` take its frequencies from its own rows, whatever passes ran before or beside it."""
    for module in model.modules():
        if any(True for _ in _borders(module)):
            module.forward = types.MethodType(_afresh, module)


def _afresh(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Compute in a copy: what the pass writes into it, buffers in place among it, is gone with it."""
    own = copy.copy(self)
    own._buffers = {name: None if kept is None else kept.clone() for name, kept in self._buffers.items()}
    return type(self).forward(own, *args, **kwargs)
