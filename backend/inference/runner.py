"""Rows side by side in one cache: while answers are written, the model is called here and nowhere else.

How a model may be decoded differs: whether rows may share a batch, whether a prompt may be read in pieces, and where
its rotary frequencies change with the length of a row. ``way_of`` says so; ``decode_proof`` puts it to the test.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from backend.core.encoding.examples import common_prefix
from backend.core.rope import rope_border
from backend.errors import ModelError
from backend.inference.kv_cache import choose_rows, extend, new_cache, takes_rows

MIN_SHARED = 8
"""A common beginning shorter than this, in tokens, is not worth computing apart."""
SPARE_SEATS = 0.5
"""Seats that are made at once when one is wanted, as a share of those there are."""
CACHES = ("past_key_values", "cache_params")
"""What models call the cache they are given."""


@dataclass(frozen=True)
class Way:
    """How a model is decoded. ``cache`` is the name of the argument that takes its cache.

    ``together``: rows of different lengths may share a batch. ``in_pieces``: a prompt may be read piece by piece.
    ``border``: from so many tokens on, a row uses other rotary frequencies for all of its places (longrope).
    """

    cache: str
    together: bool
    in_pieces: bool
    border: int | None

    def is_beyond(self, length: int) -> bool:
        """Whether a row of ``length`` tokens, the next input included, lies beyond the border."""
        return self.border is not None and length > self.border

    def read_at_once(self, length: int) -> bool:
        """Whether a prompt of ``length`` tokens has to be read in one go, by the step that continues it."""
        return not (self.together and self.in_pieces) or self.is_beyond(length)


_proved: WeakKeyDictionary[PreTrainedModel, Way] = WeakKeyDictionary()


def causal_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the language model itself, without peft's wrapper."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def way_of(model: PreTrainedModel | PeftModel) -> Way:
    """Return how ``model`` is decoded: as it was proved, else as its class and configuration promise.

    Raises ModelError ``cannot-generate`` for a model that takes no cache.
    """
    causal = causal_of(model)
    if causal in _proved:
        return _proved[causal]
    arguments = inspect.signature(causal.forward).parameters
    cache = next((name for name in CACHES if name in arguments), None)
    if cache is None:
        raise cannot_generate(causal, "they take no cache of what they have read")
    return Way(
        cache=cache,
        together="attention_mask" in arguments,
        in_pieces=not causal._is_stateful,
        border=rope_border(causal.config),
    )


def set_way(model: PreTrainedModel | PeftModel, way: Way) -> None:
    """Decode ``model`` in this way from now on."""
    _proved[causal_of(model)] = way


def cannot_generate(causal: PreTrainedModel, why: str) -> ModelError:
    """Return the error for a model that cannot be decoded here, where ``why`` says the reason."""
    return ModelError(
        f"Models of type {causal.config.model_type} cannot write answers here: {why}.",
        remedy="Choose a model of another architecture.",
        code="cannot-generate",
    )


class Runner:
    """Rows that are continued in one cache. ``rows`` has the number of the row in each seat, None for an empty one.

    ``numbers`` are those of ``prompts``, which are read by the first ``logits``; a beginning that all of them share
    is computed once.
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, prompts: Sequence[Sequence[int]], numbers: Sequence[int]
    ) -> None:
        self._model = model
        self._way = way_of(model)
        self._device = next(model.parameters()).device
        self.rows: list[int | None] = list(numbers)
        self._cache = new_cache(model.config)
        self._held = 0  # columns of the cache: it holds this much of every row
        shared = self._read_shared(prompts)
        self._inputs, mask = _left_padded([prompt[shared:] for prompt in prompts], self._device)
        self._positions = shared + (mask.cumsum(1) - 1).clamp(min=0)
        self._mask = torch.cat([mask.new_ones(len(prompts), shared), mask], dim=1)

    @classmethod
    def continuing(
        cls,
        model: PreTrainedModel | PeftModel,
        prompt: Sequence[int],
        cache: DynamicCache,
        numbers: Sequence[int],
    ) -> Runner:
        """Rows that all continue ``prompt``, of which ``cache`` holds everything but the last token."""
        runner = cls(model, [], numbers)
        shape, length = (len(numbers), 1), len(prompt)
        runner._cache, runner._held = cache, length - 1
        if len(numbers) > 1:
            choose_rows(cache, torch.zeros(len(numbers), dtype=torch.int64, device=runner._device))
        runner._inputs = torch.full(shape, prompt[-1], device=runner._device)
        runner._positions = torch.full(shape, length - 1, device=runner._device)
        runner._mask = runner._inputs.new_ones(len(numbers), length)
        return runner

    @torch.inference_mode()
    def _read_shared(self, prompts: Sequence[Sequence[int]]) -> int:
        """Compute the beginning that all prompts share once, for all; returns its length in tokens.

        Only where mask and positions are all that tells attention where a token stands: a window, a state or a
        bias by distance would count the padding between the beginning and the rest. Beyond the border of the rotary
        frequencies a beginning would be read with those of its own length.
        """
        by_mask = takes_rows(self._cache) and self._model._supports_attention_backend
        if len(prompts) < 2 or not by_mask or self._way.is_beyond(max(map(len, prompts))):
            return 0
        shortest = min(len(prompt) for prompt in prompts)
        arrays = [np.asarray(prompt[:shortest]) for prompt in prompts]
        shared = min(shortest - 1, *(common_prefix(arrays[0], array) for array in arrays[1:]))
        if shared < MIN_SHARED:
            return 0
        read(self._model, self._cache, prompts[0][:shared], self._way)
        choose_rows(self._cache, torch.zeros(len(prompts), dtype=torch.int64, device=self._device))
        self._held = shared
        return shared

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """The scores [seats, V], float32, of the next token of every row."""
        # a model of nothing but states masks what it is given, any other what it holds as well
        seen = self._mask if self._way.cache == CACHES[0] else self._mask[:, -self._inputs.shape[1] :]
        places = {"attention_mask": seen, "position_ids": self._positions * self._taken}
        said = _call(self._model, self._way, self._cache, input_ids=self._inputs, **places)
        self._held = self._mask.shape[1]
        logits: Tensor = said.logits[:, -1].float()
        return logits

    def advance(self, chosen: Mapping[int, int]) -> None:
        """Make ``chosen`` (token ids by row) the next input."""
        ids = [[chosen.get(-1 if row is None else row, 0)] for row in self.rows]
        self._inputs = torch.tensor(ids, device=self._device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(ids), 1)], dim=1)
        self._positions = self._positions[:, -1:] + 1

    @property
    def left(self) -> list[int]:
        """The numbers of the rows that are still continued, in the order of their seats."""
        return [row for row in self.rows if row is not None]

    @property
    def _taken(self) -> Tensor:
        """1 for a seat that is taken, 0 for one that is empty, [seats, 1]: an empty one stands at the beginning.

        Left to itself its position would run beyond the context, and be the longest row for rotary frequencies.
        """
        return torch.tensor([[row is not None] for row in self.rows], device=self._device)

    @property
    def has_begun(self) -> bool:
        """Whether the cache holds all of every row but its last token, which is the next input."""
        return bool(self._held) and self._mask.shape[1] == self._held + 1

    @property
    def takes_rows(self) -> bool:
        """Whether ``join`` may be called now."""
        return self.has_begun and self._way.together and takes_rows(self._cache)

    @torch.inference_mode()
    def join(self, prompt: Sequence[int], cache: DynamicCache, numbers: Sequence[int]) -> None:
        """Seats for rows that continue ``prompt``, of which ``cache`` holds all but the last token.

        What the rows already here say does not change, nor when this fails for want of memory.
        """
        length = len(prompt)
        self._make_seats(len(numbers), columns=length - self._mask.shape[1])
        seats = [seat for seat, row in enumerate(self.rows) if row is None][: len(numbers)]
        for seat, number in zip(seats, numbers, strict=True):
            if length > 1:
                for layer, given in zip(self._cache.layers, cache.layers, strict=True):
                    layer.write(seat, given)
            self._mask[seat] = 0
            self._mask[seat, -length:] = 1
            self._inputs[seat], self._positions[seat] = prompt[-1], length - 1
            self.rows[seat] = number

    def _make_seats(self, wanted: int, *, columns: int) -> None:
        """Room for ``wanted`` more rows and, where ``columns`` is above 0, for longer ones."""
        free = self.rows.count(None)
        more = 0 if free >= wanted else max(wanted - free, int(len(self.rows) * SPARE_SEATS))
        columns = max(0, columns)
        if not more and not columns:
            return
        mask = F.pad(self._mask, (columns, 0, 0, more))
        mask[:, -1] = 1  # an empty seat looks at itself: a row of nothing but masked places is NaN
        inputs, positions = (F.pad(part, (0, 0, 0, more)) for part in (self._inputs, self._positions))
        extend(self._cache, more, columns)  # all of it or nothing, and nothing after it asks for memory
        self._mask, self._inputs, self._positions = mask, inputs, positions
        self._held += columns
        self.rows += [None] * more

    def let_go(self, leaving: Collection[int]) -> None:
        """Go on without the rows ``leaving``; what only they needed is given up."""
        self.rows = [None if row in leaving else row for row in self.rows]
        self._close_ranks()
        self._drop_columns()

    def _close_ranks(self) -> None:
        """Give up empty seats once half of them are: moving the others costs a copy."""
        seats = [seat for seat, row in enumerate(self.rows) if row is not None]
        if not seats or len(seats) > len(self.rows) // 2:
            return
        index = torch.tensor(seats, device=self._device)
        if self._held:
            choose_rows(self._cache, index)
        self.rows = [self.rows[seat] for seat in seats]
        self._inputs, self._mask, self._positions = (
            kept[index] for kept in (self._inputs, self._mask, self._positions)
        )

    def _drop_columns(self) -> None:
        """Forget the places left of the beginning of the longest row."""
        seats = [seat for seat, row in enumerate(self.rows) if row is not None]
        if not seats or not self.has_begun or not takes_rows(self._cache):
            return
        unused = min(int(self._mask[seats].argmax(1).min()), self._held - 1)
        if unused:
            for layer in self._cache.layers:
                layer.drop_columns(unused)
            self._mask = self._mask[:, unused:]
            self._held -= unused


@torch.inference_mode()
def read(model: PreTrainedModel | PeftModel, cache: DynamicCache, ids: Sequence[int], way: Way) -> None:
    """Read ``ids`` of a single row into ``cache``, after what it holds."""
    device = next(model.parameters()).device
    _call(model, way, cache, input_ids=torch.tensor([list(ids)], device=device))


_ONE_ROPE = threading.Lock()
"""A model with two sets of rotary frequencies keeps the one in use in itself, so one thread calls it at a time."""


def _call(
    model: PreTrainedModel | PeftModel, way: Way, cache: DynamicCache, *, input_ids: Tensor, **given: Tensor
) -> Any:
    # an index, not a number: a slice would make the head a batched product over copies of its weight
    last = torch.tensor([-1], device=input_ids.device)
    given |= {"input_ids": input_ids, "logits_to_keep": last}
    with nullcontext() if way.border is None else _ONE_ROPE:
        return model(**given, **{way.cache: cache}, use_cache=True)


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask), int64 [rows, longest]: prompts end at the right edge, the mask is 0 before they begin."""
    width = max((len(prompt) for prompt in prompts), default=0)
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    both = (torch.tensor(part, dtype=torch.int64, device=device) for part in (ids, mask))
    first, second = (part.view(len(prompts), width) for part in both)
    return first, second
