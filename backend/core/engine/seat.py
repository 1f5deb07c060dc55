"""The place of one sequence in the engine: its keys and values, and how many tokens they are of."""

from __future__ import annotations

import torch
from torch import Tensor

from backend.core.engine.block import Block

SPARE = 64
"""Tokens that a seat has room for at least beyond those it holds; otherwise half of those."""


class Seat:
    """Keys and values ``cache`` float32 [layers, 2, kv heads, capacity, head width] of ``length`` tokens.

    Each seat has memory of its own, so that a row that joins or leaves moves nothing of the others.
    """

    def __init__(self, block: Block) -> None:
        self.length = 0
        self.cache = torch.empty(block.depth, 2, block.kv_heads, 0, block.head_width)

    @property
    def capacity(self) -> int:
        """Tokens that there is room for."""
        return self.cache.shape[3]

    def reserve(self, tokens: int) -> None:
        """Make room for ``tokens`` in all; growing by half copies each token a constant number of times."""
        if tokens > self.capacity:
            self.cache = self._copied(tokens + max(SPARE, tokens // 2))

    def copy(self) -> Seat:
        """Return a seat that holds the same tokens, in memory of its own."""
        other = object.__new__(Seat)
        other.length, other.cache = self.length, self._copied(self.length + SPARE)
        return other

    def _copied(self, capacity: int) -> Tensor:
        layers, two, heads, _, width = self.cache.shape
        made = torch.empty(layers, two, heads, capacity, width)
        made[:, :, :, : self.length] = self.cache[:, :, :, : self.length]
        return made
