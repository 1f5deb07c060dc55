"""A batch of rows decoded by our own engine: every row has a seat of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from backend.core.encoding.examples import common_prefix
from backend.core.engine.engine import Engine
from backend.core.engine.forward import Reading
from backend.core.engine.seat import Seat

MIN_SHARED = 8
"""A common beginning shorter than this, in tokens, is not worth copying."""


class EngineRunner:
    """A ``Runner`` over ``engine``: the rows ``numbers`` of ``prompts``, or more of them by ``join``.

    A beginning that all prompts share is computed once; no row's bits depend on it, nor on the rows beside it.
    """

    def __init__(self, engine: Engine, prompts: Sequence[Sequence[int]], numbers: Sequence[int]) -> None:
        self._engine = engine
        self._seats: dict[int, Seat] = {}
        self._inputs: dict[int, Sequence[int]] = {}
        self._beginning, self._shared = (
            Seat(engine.block),
            list(prompts[0][: _shared(prompts)]) if prompts else [],
        )
        if self._shared:
            engine.read([Reading(self._beginning, self._shared, asks=False)])
        self.begin(prompts, numbers)

    def begin(self, prompts: Sequence[Sequence[int]], numbers: Sequence[int]) -> None:
        """Add rows, of whose ``prompts`` the next ``logits`` reads what is not the beginning of the first rows."""
        for number, prompt in zip(numbers, prompts, strict=True):
            shared = len(self._shared)
            known = len(prompt) > shared and list(prompt[:shared]) == self._shared
            self._seats[number] = self._beginning.copy() if known else Seat(self._engine.block)
            self._inputs[number] = prompt[shared:] if known else prompt

    @property
    def slots(self) -> Sequence[int | None]:
        """The row number of each row of ``logits``."""
        return self.active

    @property
    def active(self) -> list[int]:
        """The numbers of the rows still being generated."""
        return list(self._seats)

    @property
    def accepts_rows(self) -> bool:
        """True: rows may join at any time."""
        return True

    def logits(self) -> Tensor:
        """Return the logits of each row's next token, float32 [slots, V]."""
        return self._engine.read([Reading(seat, self._inputs[row]) for row, seat in self._seats.items()])

    def advance(self, chosen: Mapping[int, int]) -> None:
        """Set the next input: the token ids ``chosen`` by row number."""
        self._inputs |= {row: [token] for row, token in chosen.items() if row in self._seats}

    def join(self, prompt: Sequence[int], cache: Seat, numbers: Sequence[int]) -> None:
        """Add rows that continue ``prompt``, of which ``cache`` holds all but the last token."""
        seats = {number: cache.copy() for number in numbers}
        self._seats |= seats
        self._inputs |= dict.fromkeys(numbers, prompt[cache.length :])

    def remove(self, leaving: Collection[int]) -> None:
        """Remove the rows ``leaving`` and free their seats."""
        for number in leaving:
            self._seats.pop(number, None)
            self._inputs.pop(number, None)


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all prompts begin with, if it is worth while; the last token of each is left over."""
    if len(prompts) < 2:
        return 0
    shortest = min(len(prompt) for prompt in prompts)
    first, *others = (torch.tensor(prompt[:shortest]).numpy() for prompt in prompts)
    shared = min(shortest - 1, *(common_prefix(first, other) for other in others))
    return shared if shared >= MIN_SHARED else 0
