"""A cache with room holds what transformers' own holds, whatever is done to it, and copies it rarely."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache, MistralConfig
from transformers.cache_utils import DynamicLayer

from backend.inference.kv_cache import MIN_SPARE, GrowingLayer, accepts_rows, extend, new_cache, select_rows
from tests.tiny import tiny_model

Layers = tuple[GrowingLayer, DynamicLayer]


def _states(rows: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(rows, 2, length, 3, generator=generator) for _ in range(2))
    return keys, values


def _append(layers: Layers, length: int, seed: int) -> None:
    rows = layers[1].keys.shape[0] if layers[1].get_seq_length() else 3
    ours, theirs = (layer.update(*_states(rows, length, seed)) for layer in layers)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def _filled(*lengths: int) -> Layers:
    layers = GrowingLayer(), DynamicLayer()
    for seed, length in enumerate(lengths):
        _append(layers, length, seed)
    return layers


def _repeat(layers: Layers) -> None:
    for layer in layers:
        layer.batch_repeat_interleave(2)


def _select(layers: Layers) -> None:
    for layer in layers:
        layer.batch_select_indices(torch.tensor([2, 0]))


def _crop(layers: Layers) -> None:
    for layer in layers:
        layer.crop(-1)


def _forget(layers: Layers) -> None:
    for layer in layers:
        layer.reset()


@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=8))
def test_what_is_appended_is_held_in_order(lengths: list[int]) -> None:
    ours, theirs = _filled(*lengths)

    assert ours.get_seq_length() == theirs.get_seq_length() == sum(lengths)
    assert torch.equal(ours.keys, theirs.keys)
    assert torch.equal(ours.values, theirs.values)


@pytest.mark.parametrize("change", [_repeat, _select, _crop, _forget])
@pytest.mark.parametrize("lengths", [(5,), (5, 1, 1), (70, 1)])
def test_after_a_change_of_rows_or_length_it_goes_on_rightly(
    change: object, lengths: tuple[int, ...]
) -> None:
    layers = _filled(*lengths)

    change(layers)
    _append(layers, 1, 50)
    _append(layers, 2, 51)

    assert torch.equal(layers[0].keys, layers[1].keys)
    assert layers[0].get_seq_length() == layers[1].get_seq_length()


def test_one_token_at_a_time_is_written_in_place() -> None:
    layer = GrowingLayer()
    layer.update(*_states(3, 10, 0))
    places = [layer.update(*_states(3, 1, seed))[0].data_ptr() for seed in range(1, 200)]

    moves = sum(before != after for before, after in pairwise(places))

    assert moves <= 3


def test_room_grows_by_half_and_by_a_block_at_least() -> None:
    layer = GrowingLayer()
    layer.update(*_states(1, 4, 0))
    small = layer._buffers[0].shape[-2]

    layer.update(*_states(1, 1000, 1))

    assert small == 4 + MIN_SPARE
    assert layer._buffers[0].shape[-2] == 1004 + 502


def test_only_layers_that_keep_everything_get_room() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}

    plain = new_cache(tiny_model().config)
    sliding = new_cache(MistralConfig(**sizes, sliding_window=8))

    assert [type(layer) for layer in plain.layers] == [GrowingLayer, GrowingLayer]
    assert not [layer for layer in sliding.layers if isinstance(layer, GrowingLayer)]
    assert isinstance(sliding, DynamicCache)


def _cache_of(*layers: GrowingLayer) -> DynamicCache:
    cache = DynamicCache()
    cache.layers = list(layers)
    return cache


def test_a_row_takes_a_seat_with_its_end_at_the_right_edge() -> None:
    layer, guest = GrowingLayer(), GrowingLayer()
    layer.update(*_states(2, 4, 0))
    keys, values = guest.update(*_states(1, 6, 1))
    before = layer.keys.clone()

    extend(_cache_of(layer), slots=1, columns=2)
    layer.write(2, guest)

    assert torch.equal(layer.keys[2], keys[0])
    assert torch.equal(layer.values[2], values[0])
    assert torch.equal(layer.keys[:2, :, 2:], before)
    assert not layer.keys[:2, :, :2].any()


def test_a_cache_that_cannot_be_extended_is_as_it_was() -> None:
    layers = [GrowingLayer(), GrowingLayer()]
    layers[0].update(*_states(2, 4, 0))

    with pytest.raises(AttributeError):
        extend(_cache_of(*layers), slots=1, columns=2)  # the second layer holds nothing to be extended

    assert layers[0].keys.shape == (2, 2, 4, 3)


@pytest.mark.parametrize("index", [[0, 0, 0], [2, 0], [1]])
def test_rows_are_chosen_in_any_order_and_number(index: list[int]) -> None:
    layers = _filled(5, 1)
    wanted = torch.tensor(index)
    keys = layers[0].keys[wanted]

    select_rows(_cache_of(layers[0]), wanted)
    layers[0].update(*_states(len(index), 1, 7))

    assert torch.equal(layers[0].keys[:, :, :6], keys)


def test_columns_are_dropped_on_the_left_and_it_goes_on_in_place() -> None:
    layer = GrowingLayer()
    layer.update(*_states(2, 4, 0))
    layer.update(*_states(2, 1, 1))
    before, place = layer.keys.clone(), layer.keys[:, :, 3:].data_ptr()

    layer.drop_columns(3)
    layer.update(*_states(2, 1, 2))

    assert layer.get_seq_length() == 3
    assert torch.equal(layer.keys[:, :, :2], before[:, :, 3:])
    assert layer.keys.data_ptr() == place


def test_only_a_cache_that_forgets_nothing_takes_rows() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}

    assert accepts_rows(new_cache(tiny_model().config))
    assert not accepts_rows(new_cache(MistralConfig(**sizes, sliding_window=8)))
