"""Our own inference of Llama-like models on the processor: one pass for the next tokens of many sequences."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from backend.core.engine.block import describe, rotary_table
from backend.core.engine.forward import NativeModel, Reading, forward, forward_twin
from backend.core.engine.library import library
from backend.core.engine.weights import Weights, is_stored_in_bfloat16, read_weights, with_adapter

TABLE = 2048
"""Positions for which rotary values are computed at first."""
PIECE = 256
"""Tokens of a pass at most, so that what it needs beside the weights stays small."""


@dataclass(frozen=True, eq=False)
class _Loaded:
    weights: Weights
    native: NativeModel


class Engine:
    """The engine of ``model``, whose weights it reads where they lie, or a copy of them in ``eight_bits``.

    A plain LoRA adapter that is not merged is computed beside them. After training ``reread`` the weights.
    Computes on as many threads as torch may use in the calling thread; the bits of an answer do not depend on them.
    Raises UnsupportedError for a model it cannot run.
    """

    def __init__(self, model: PreTrainedModel, *, eight_bits: bool = False) -> None:
        self.block = describe(model)
        self.native = library() is not None
        self.eight_bits = eight_bits and self.native
        self._rotary: nn.Module = model.model.rotary_emb  # and not the model, which would never be freed
        self._table = rotary_table(self._rotary, TABLE)
        self._loaded: dict[Hashable, _Loaded] = {}
        self._base = self._now = self._load(model, None)

    def _load(self, model: PreTrainedModel, base: Weights | None) -> _Loaded:
        weights = read_weights(model, self.block, eight_bits=self.eight_bits, base=base)
        return _Loaded(weights, NativeModel(self.block, weights))

    def holds_its_own(self, model: PreTrainedModel) -> bool:
        """Return whether the engine can do without the float32 weights of ``model``, from which it was made.

        It can in 8 bits; and where no weight changes in bfloat16, since it then takes them so, in half the memory,
        and widens each when it is read: products stay in float32. ``model`` then holds its weights in bfloat16 too.
        """
        if self.eight_bits:
            self._base.weights.sources.clear()
            return True
        if not is_stored_in_bfloat16(model):
            return False
        del self._base, self._now  # or all matrices would lie in memory twice at once
        for part in model.parameters():
            part.data = part.data.bfloat16()
        self.reread(model)
        return True

    def reread(self, model: PreTrainedModel) -> None:
        """Read the weights that ``model`` has now, adapter included; there are no others."""
        self._base = self._now = self._load(model, None)
        self._loaded = {}

    def has(self, key: Hashable) -> bool:
        """Return True if weights named ``key`` were read and not forgotten."""
        return key in self._loaded

    def read_as(self, key: Hashable, model: PreTrainedModel) -> None:
        """Read the weights that ``model`` has now, which differ from those of the base, and name them ``key``."""
        self._loaded[key] = self._load(model, self._base.weights)

    def read_adapter_as(self, key: Hashable, model: PreTrainedModel, strength: float) -> None:
        """Read the adapter of ``model``, which is not merged, times ``strength``; the weights are those of the base.

        Raises UnsupportedError for an adapter that is more than products beside matrices.
        """
        describe(model)
        weights = with_adapter(self._base.weights, model, strength)
        self._loaded[key] = _Loaded(weights, NativeModel(self.block, weights))

    def use(self, key: Hashable | None, known: Collection[Hashable] = ()) -> None:
        """Compute with the weights named ``key`` from now on; None is the base. Names not ``known`` are forgotten."""
        self._now = self._base if key is None else self._loaded[key]
        self._loaded = {name: made for name, made in self._loaded.items() if name in known}

    def read(self, readings: Sequence[Reading]) -> Tensor:
        """Append the tokens of each reading to its seat; return the logits of those that ask, float32 [asking, V].

        Long readings are cut into pieces. If this fails, the seats hold as many tokens as before.
        """
        highest = max((token for reading in readings for token in reading.tokens), default=0)
        if highest >= self.block.vocabulary:
            raise IndexError(f"there is no token {highest} among {self.block.vocabulary}")
        before = [(reading.seat, reading.seat.length) for reading in readings]
        for reading in readings:
            reading.seat.reserve(reading.seat.length + len(reading.tokens))
        self._lengthen_table(max((reading.seat.capacity for reading in readings), default=0))
        try:
            logits = [self._pass(piece) for piece in _pieces(readings)]
        except BaseException:
            for seat, length in before:
                seat.length = length
            raise
        return torch.cat(logits) if logits else torch.empty(0, self.block.vocabulary)

    def _pass(self, readings: Sequence[Reading]) -> Tensor:
        if self.native:
            return forward(self.block, self._now.native, readings, self._table, torch.get_num_threads())
        return forward_twin(self.block, self._now.weights, readings, self._table)

    def _lengthen_table(self, length: int) -> None:
        if length > len(self._table[0]):
            self._table = rotary_table(self._rotary, max(length, 2 * len(self._table[0])))

    @property
    def bytes(self) -> int:
        """Bytes of weights that the decoding of one token reads."""
        return self._now.weights.bytes


def _pieces(readings: Sequence[Reading]) -> Iterator[list[Reading]]:
    """Yield the readings in passes of at most ``PIECE`` tokens, the longer ones cut; the answers keep their order."""
    held: list[Reading] = []
    room = PIECE
    for reading in readings:
        start = 0
        while start < len(reading.tokens):
            end = min(start + room, len(reading.tokens))
            asks = reading.asks and end == len(reading.tokens)
            held.append(Reading(reading.seat, reading.tokens[start:end], asks))
            room -= end - start
            start = end
            if room == 0:
                yield held
                held, room = [], PIECE
    if held:
        yield held
