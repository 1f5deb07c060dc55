"""A key-value cache with room to grow: a new token is written in place instead of copying what came before. F1.

Rows may take a seat in it while others are being continued: every row ends at the right edge, and whatever lies left
of its beginning is masked.
"""

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

    def take(self, keys: Tensor, values: Tensor) -> None:
        """Hold these states instead."""
        self.keys, self.values, self._rooms = keys, values, None

    def write(self, seat: int, other: DynamicLayer) -> None:
        """Put the single row of ``other`` into ``seat``, its end at the right edge."""
        length = other.get_seq_length()
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            mine[seat, :, mine.shape[2] - length :] = theirs[0]

    def drop_columns(self, count: int) -> None:
        """Forget the leftmost ``count`` places of every row."""
        self.keys, self.values = self.keys[:, :, count:], self.values[:, :, count:]
        if self._rooms is not None:
            self._rooms = self._rooms[0][:, :, count:], self._rooms[1][:, :, count:]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch."""
        super().batch_repeat_interleave(repeats)
        self._rooms = None

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch."""
        super().batch_select_indices(indices)
        self._rooms = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may be named several times."""
        super().reorder_cache(beam_idx)
        self._rooms = None

    def reset(self) -> None:
        """Forget everything."""
        self._rooms = None
        super().reset()


def _extended(old: Tensor, seats: int, columns: int) -> Tensor:
    rows, heads, length, width = old.shape
    new = old.new_zeros(rows + seats, heads, length + columns, width)
    new[:rows, :, columns:] = old
    return new


def new_cache(config: PreTrainedConfig) -> DynamicCache:
    """Return an empty cache for a model of this configuration; only full-attention layers get room."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def takes_rows(cache: DynamicCache) -> bool:
    """Whether rows may take a seat in ``cache`` while others are being continued: no layer forgets places."""
    return all(isinstance(layer, RoomyLayer) for layer in cache.layers)


def choose_rows(cache: DynamicCache, index: Tensor) -> None:
    """Make ``cache`` hold its rows ``index`` [rows], in this order; a row may be named several times.

    Every kind of layer can do it, those of states as well: it is what beam search asks of them.
    """
    for layer in cache.layers:
        layer.reorder_cache(index)


def extend(cache: DynamicCache, seats: int, columns: int) -> None:
    """Add ``seats`` rows of zeros below and ``columns`` zeros left of every row; on failure nothing has changed.

    Zeros and not whatever memory holds: a masked NaN times nothing is still NaN.
    """
    made = [
        tuple(_extended(old, seats, columns) for old in (layer.keys, layer.values)) for layer in cache.layers
    ]
    for layer, (keys, values) in zip(cache.layers, made, strict=True):
        layer.take(keys, values)
