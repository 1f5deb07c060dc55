from __future__ import annotations

import torch

from backend.core.engine.block import describe
from backend.core.engine.seat import SPARE, Seat
from tests.tiny import tiny_model


def _seat(tokens: int) -> Seat:
    seat = Seat(describe(tiny_model("llama")))
    seat.reserve(tokens)
    seat.cache.normal_()
    seat.length = tokens
    return seat


def test_a_seat_grows_without_losing_what_it_holds() -> None:
    seat = _seat(10)
    held, room = seat.cache[..., :10, :].clone(), seat.capacity
    seat.reserve(room)
    assert seat.capacity == room
    seat.reserve(room + 1)
    assert seat.capacity >= room + 1 + SPARE
    assert torch.equal(seat.cache[..., :10, :], held)


def test_a_copy_holds_the_same_in_memory_of_its_own() -> None:
    seat = _seat(5)
    other = seat.copy()
    assert other.length == 5
    assert torch.equal(other.cache[..., :5, :], seat.cache[..., :5, :])
    other.cache.zero_()
    assert seat.cache[..., :5, :].abs().sum() > 0
