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
from backend.core.engine.weights import Weights, read_weights

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

    def reread(self, model: PreTrainedModel) -> None:
        """Read the weights that ``model`` has now, adapter included; there are no others."""
        self._base = self._now = self._load(model, None)
        self._loaded = {}

    def use(self, model: PreTrainedModel, key: Hashable | None, known: Collection[Hashable] = ()) -> None:
        """Read the weights that ``model`` has now, named ``key``; None is the base, from which the others differ.

        What was read for names other than those ``known`` is forgotten.
        """
        self._loaded = {name: made for name, made in self._loaded.items() if name in known}
        if key is None:
            self._now = self._base
        else:
            if key not in self._loaded:
                self._loaded[key] = self._load(model, self._base.weights)
            self._now = self._loaded[key]

    def read(self, readings: Sequence[Reading]) -> Tensor:
        """Append the tokens of each reading to its seat; return the logits of those that ask, float32 [asking, V].

        Long readings are cut into pieces. If this fails, the seats hold as many tokens as before.
        """
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
