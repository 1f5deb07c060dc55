"""A key-value cache with room to grow: a new token is written in place instead of copying what came before. F1."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens of room that a layer makes at least when it runs out; it also grows by half."""


class RoomyLayer(DynamicLayer):
    """Keys and values [batch, heads, length, width] as views of larger buffers."""

    _rooms: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append the new states and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length()
        grown = length + key_states.shape[-2]
        if self._rooms is None or self._rooms[0].shape[-2] < grown:
            self._rooms = self._make_room(key_states, value_states, length, grown)
        for room, new in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, length:grown] = new
        self.keys, self.values = (room[:, :, :grown] for room in self._rooms)
        return self.keys, self.values

    def _make_room(self, keys: Tensor, values: Tensor, length: int, grown: int) -> tuple[Tensor, Tensor]:
        capacity = grown + max(ROOM, grown // 2)
        rooms = tuple(new.new_empty(*new.shape[:2], capacity, new.shape[-1]) for new in (keys, values))
        if length:
            for room, old in zip(rooms, (self.keys, self.values), strict=True):
                room[:, :, :length] = old
        return rooms[0], rooms[1]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch."""
        super().batch_repeat_interleave(repeats)
        self._rooms = None

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch."""
        super().batch_select_indices(indices)
        self._rooms = None

    def reset(self) -> None:
        """Forget everything."""
        self._rooms = None
        super().reset()


def new_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache for a model of this configuration; only full-attention layers get room."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
