from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from backend.core.engine.block import Block, describe, rotary_table
from backend.core.engine.forward import NativeModel, Reading, forward, forward_twin
from backend.core.engine.library import library
from backend.core.engine.seat import Seat
from backend.core.engine.weights import Weights, read_weights
from tests.backend.core.engine.models import adapted, model_of

native = pytest.mark.skipif(library() is None, reason="no kernels here")


class Loaded:
    """A model, with an adapter of some rank beside it, as both ways of computing it see it."""

    def __init__(self, kind: str, *, eight_bits: bool = False, rank: int = 0) -> None:
        self.model: PreTrainedModel = adapted(kind, rank=rank).get_base_model() if rank else model_of(kind)
        self.block: Block = describe(self.model)
        self.weights: Weights = read_weights(self.model, self.block, eight_bits=eight_bits)
        self.native = NativeModel(self.block, self.weights)
        self.table = rotary_table(self.model.model.rotary_emb, 512)

    def seat(self, room: int = 128) -> Seat:
        seat = Seat(self.block)
        seat.reserve(room)
        return seat

    def read(self, readings: list[Reading], threads: int = 2) -> Tensor:
        return forward(self.block, self.native, readings, self.table, threads)

    def read_in_torch(self, readings: list[Reading]) -> Tensor:
        return forward_twin(self.block, self.weights, readings, self.table)


def _ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 500, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@native
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma", "odd widths"])
@pytest.mark.parametrize("eight_bits", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 5, 16])
@torch.inference_mode()
def test_kernel_and_twin_agree(kind: str, eight_bits: bool, rank: int) -> None:
    loaded = Loaded(kind, eight_bits=eight_bits, rank=rank)
    ours, twins = ([loaded.seat() for _ in range(3)] for _ in range(2))
    for tokens in ([_ids(9), _ids(4, 1), _ids(1, 2)], [[5], [6], [7]]):
        mine, theirs = (
            way(
                [
                    Reading(seat, part, index != 1)
                    for index, (seat, part) in enumerate(zip(seats, tokens, strict=True))
                ]
            )
            for way, seats in ((loaded.read, ours), (loaded.read_in_torch, twins))
        )
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    assert [seat.length for seat in ours] == [seat.length for seat in twins] == [10, 5, 2]


@native
@pytest.mark.parametrize(("kind", "rank"), [("llama", 0), ("odd widths", 0), ("odd widths", 5)])
def test_bits_depend_neither_on_threads_nor_on_pieces_nor_on_neighbours(kind: str, rank: int) -> None:
    loaded, ids = Loaded(kind, rank=rank), _ids(23)
    alone = loaded.read([Reading(loaded.seat(), ids)], threads=1)
    for threads in (1, 2, 5):
        others = [Reading(loaded.seat(), _ids(count, count), asks=False) for count in (3, 40, 1)]
        seat = loaded.seat()
        loaded.read([Reading(seat, ids[:10], asks=False)], threads)
        loaded.read([others[0], Reading(seat, ids[10:22], asks=False), *others[1:]], threads)
        among = loaded.read([Reading(loaded.seat(), [1]), Reading(seat, ids[22:])], threads)
        assert torch.equal(among[1], alone[0])


@native
def test_a_seat_with_other_room_gives_the_same_bits() -> None:
    loaded, ids = Loaded("qwen2"), _ids(9)
    narrow, wide = (loaded.read([Reading(loaded.seat(room), ids)]) for room in (9, 300))
    assert torch.equal(narrow, wide)


@native
def test_what_is_no_number_stays_in_its_sequence() -> None:
    loaded = Loaded("untied")
    loaded.weights.embedding[3] = torch.nan
    logits = loaded.read([Reading(loaded.seat(), [1, 3, 4]), Reading(loaded.seat(), [1, 2])])
    assert logits[0].isnan().all()
    assert logits[1].isfinite().all()


@native
def test_nobody_asks_and_nobody_reads() -> None:
    loaded, seat = Loaded("llama"), Loaded("llama").seat()
    assert loaded.read([Reading(seat, [1, 2], asks=False)]).shape == (0, 512)
    assert loaded.read([]).shape == (0, 512)
    assert seat.length == 2
