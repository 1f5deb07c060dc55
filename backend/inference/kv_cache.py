"""A key-value cache with spare capacity: a new token is written in place instead of copying all earlier ones.

Rows can be added while others are being generated: each row ends at the right edge, and what stands to the left of
its beginning is masked.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

MIN_SPARE = 64
"""Spare tokens that a full layer allocates at least; otherwise half of what it holds."""


class GrowingLayer(DynamicLayer):
    """A DynamicLayer whose keys and values [batch, heads, length, width] are views into larger buffers.

    transformers' own layer concatenates at every token, which copies the whole cache each time; growing by half
    copies a constant number of times per token, on average.
    """

    _buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append new keys and values and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length()
        grown = length + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < grown:
            self._buffers = self._grow(key_states, value_states, length, grown)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, length:grown] = new
        self.keys, self.values = (buffer[:, :, :grown] for buffer in self._buffers)
        return self.keys, self.values

    def _grow(self, keys: Tensor, values: Tensor, length: int, grown: int) -> tuple[Tensor, Tensor]:
        capacity = grown + max(MIN_SPARE, grown // 2)
        buffers = tuple(new.new_empty(*new.shape[:2], capacity, new.shape[-1]) for new in (keys, values))
        if length:
            for buffer, old in zip(buffers, (self.keys, self.values), strict=True):
                buffer[:, :, :length] = old
        return buffers[0], buffers[1]

    def replace(self, keys: Tensor, values: Tensor) -> None:
        """Hold these keys and values instead."""
        self.keys, self.values, self._buffers = keys, values, None

    def write(self, slot: int, other: DynamicLayer) -> None:
        """Copy the single row of ``other`` into ``slot``, its end at the right edge."""
        length = other.get_seq_length()
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            mine[slot, :, mine.shape[2] - length :] = theirs[0]

    def drop_columns(self, count: int) -> None:
        """Drop the leftmost ``count`` positions of every row."""
        self.keys, self.values = self.keys[:, :, count:], self.values[:, :, count:]
        if self._buffers is not None:
            self._buffers = self._buffers[0][:, :, count:], self._buffers[1][:, :, count:]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch."""
        super().batch_repeat_interleave(repeats)  # makes new keys and values, so the buffers are stale
        self._buffers = None

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch."""
        super().batch_select_indices(indices)
        self._buffers = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may be named several times."""
        super().reorder_cache(beam_idx)
        self._buffers = None

    def reset(self) -> None:
        """Forget everything."""
        self._buffers = None
        super().reset()


def _extended(old: Tensor, slots: int, columns: int) -> Tensor:
    """Return a copy of ``old`` with ``slots`` zero rows below and ``columns`` zero positions on the left."""
    rows, heads, length, width = old.shape
    new = old.new_zeros(rows + slots, heads, length + columns, width)
    new[:rows, :, columns:] = old
    return new


def new_cache(config: PreTrainedConfig) -> DynamicCache:
    """Return an empty cache for a model of this configuration; only full-attention layers get spare capacity."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def accepts_rows(cache: DynamicCache) -> bool:
    """True if rows can be added to ``cache`` later: no layer has a window or a recurrent state."""
    return all(isinstance(layer, GrowingLayer) for layer in cache.layers)


def select_rows(cache: DynamicCache, index: Tensor) -> None:
    """Keep the rows ``index`` [rows] of ``cache``, in this order; a row may occur several times.

    Done by ``reorder_cache``, which every kind of layer has, recurrent ones too, since beam search needs it.
    """
    for layer in cache.layers:
        layer.reorder_cache(index)


def extend(cache: DynamicCache, slots: int, columns: int) -> None:
    """Add ``slots`` zero rows and ``columns`` zero positions on the left; if memory runs out, nothing has changed.

    Zeros, not uninitialised memory: attention multiplies masked values by 0, and 0 * NaN is NaN.
    """
    # all layers are built before the first is replaced
    made = [
        tuple(_extended(old, slots, columns) for old in (layer.keys, layer.values)) for layer in cache.layers
    ]
    for layer, (keys, values) in zip(cache.layers, made, strict=True):
        layer.replace(keys, values)
