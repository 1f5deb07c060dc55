"""A batch of rows decoded over one key-value cache: the only place where decoding calls a transformers model.

``Runner`` is what ``Decoding`` asks of whoever computes its rows; ``engine_runner`` is the other one.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from backend.core.encoding.examples import common_prefix
from backend.inference.decoding_mode import CACHES, DecodingMode, decoding_mode
from backend.inference.kv_cache import accepts_rows, extend, new_cache, select_rows

MIN_SHARED = 8
"""A common beginning shorter than this, in tokens, is not worth a forward pass of its own."""
SPARE_SLOTS = 0.5
"""Slots to add when one is missing, as a share of those there are, since each addition copies the whole cache."""


class Runner(Protocol):
    """Rows that are decoded together, by their numbers. All tokens but the next input of each are in its cache."""

    @property
    def slots(self) -> Sequence[int | None]:
        """The row number of each row of ``logits``; None for an empty one."""

    @property
    def active(self) -> list[int]:
        """The numbers of the rows still being generated."""

    @property
    def accepts_rows(self) -> bool:
        """True if ``join`` may be called now."""

    def logits(self) -> Tensor:
        """Process the next input of each row; return the logits of its next token, float32 [slots, V]."""

    def advance(self, chosen: Mapping[int, int]) -> None:
        """Set the next input: the token ids ``chosen`` by row number."""

    def join(self, prompt: Sequence[int], cache: Any, numbers: Sequence[int]) -> None:
        """Add rows that continue ``prompt``, of which ``cache`` holds all but the last token.

        The answers of the rows already here do not change, nor do they if this runs out of memory.
        """

    def remove(self, leaving: Collection[int]) -> None:
        """Remove the rows ``leaving`` and free what only they needed."""


class ModelRunner:
    """A batch of rows over one cache. ``slots`` holds the row number in each slot, None for an empty slot.

    ``numbers`` are the row numbers of ``prompts``. The first call of ``logits`` processes the prompts; a beginning
    that all share is computed once.
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, prompts: Sequence[Sequence[int]], numbers: Sequence[int]
    ) -> None:
        self._model = model
        self._mode = decoding_mode(model)
        self._device = next(model.parameters()).device
        self.slots: list[int | None] = list(numbers)
        self._cache = new_cache(model.config)
        self._cached = 0  # columns in the cache; every row ends at its right edge
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
    ) -> ModelRunner:
        """Return a runner whose rows all continue ``prompt``, of which ``cache`` holds all but the last token."""
        runner = cls(model, [], numbers)
        shape, length = (len(numbers), 1), len(prompt)
        runner._cache, runner._cached = cache, length - 1
        if len(numbers) > 1:
            select_rows(cache, torch.zeros(len(numbers), dtype=torch.int64, device=runner._device))
        runner._inputs = torch.full(shape, prompt[-1], device=runner._device)
        runner._positions = torch.full(shape, length - 1, device=runner._device)
        runner._mask = runner._inputs.new_ones(len(numbers), length)
        return runner

    @torch.inference_mode()
    def _read_shared(self, prompts: Sequence[Sequence[int]]) -> int:
        """Compute the beginning that all prompts share once for all of them; return its length in tokens.

        Padding then stands between the beginning and the rest of shorter prompts. So this is done only if mask and
        position ids alone define a token's position: an attention window, a recurrent state or a distance bias would
        count the padding. Past the rope border the beginning would get the rotary frequencies of its own length.
        """
        by_mask = accepts_rows(self._cache) and self._model._supports_attention_backend
        if len(prompts) < 2 or not by_mask or self._mode.is_past_border(max(map(len, prompts))):
            return 0
        shortest = min(len(prompt) for prompt in prompts)
        arrays = [np.asarray(prompt[:shortest]) for prompt in prompts]
        shared = min(shortest - 1, *(common_prefix(arrays[0], array) for array in arrays[1:]))
        if shared < MIN_SHARED:
            return 0
        prefill(self._model, self._cache, prompts[0][:shared], self._mode)
        select_rows(self._cache, torch.zeros(len(prompts), dtype=torch.int64, device=self._device))
        self._cached = shared
        return shared

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """Return the logits of each row's next token, float32 [slots, V]."""
        # attention models take a mask over cache and input, pure state-space models one over the input alone
        mask = self._mask if self._mode.cache == CACHES[0] else self._mask[:, -self._inputs.shape[1] :]
        given = {"attention_mask": mask, "position_ids": self._positions * self._occupied}
        output = _call(self._model, self._mode, self._cache, input_ids=self._inputs, **given)
        self._cached = self._mask.shape[1]
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def advance(self, chosen: Mapping[int, int]) -> None:
        """Set the next input: the token ids ``chosen`` by row number."""
        ids = [[chosen.get(-1 if row is None else row, 0)] for row in self.slots]
        self._inputs = torch.tensor(ids, device=self._device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(ids), 1)], dim=1)
        self._positions = self._positions[:, -1:] + 1

    @property
    def active(self) -> list[int]:
        """The numbers of the rows still being generated, in the order of their slots."""
        return [row for row in self.slots if row is not None]

    @property
    def _occupied(self) -> Tensor:
        """1 for an occupied slot, 0 for an empty one, [slots, 1]: multiplied by it, an empty slot's position is 0.

        Otherwise its position would grow past the context, and set the rotary frequencies as the longest row.
        """
        return torch.tensor([[row is not None] for row in self.slots], device=self._device)

    @property
    def has_begun(self) -> bool:
        """True if the cache holds all of every row but its last token, which is the next input."""
        return bool(self._cached) and self._mask.shape[1] == self._cached + 1

    @property
    def accepts_rows(self) -> bool:
        """True if ``join`` may be called now."""
        return self.has_begun and self._mode.batched and accepts_rows(self._cache)

    @torch.inference_mode()
    def join(self, prompt: Sequence[int], cache: DynamicCache, numbers: Sequence[int]) -> None:
        """Add rows that continue ``prompt``, of which ``cache`` holds all but the last token.

        The answers of the rows already here do not change, nor do they if this runs out of memory.
        """
        length = len(prompt)
        self._add_slots(len(numbers), columns=length - self._mask.shape[1])
        slots = [slot for slot, row in enumerate(self.slots) if row is None][: len(numbers)]
        for slot, number in zip(slots, numbers, strict=True):
            if length > 1:
                for layer, given in zip(self._cache.layers, cache.layers, strict=True):
                    layer.write(slot, given)
            self._mask[slot] = 0
            self._mask[slot, -length:] = 1
            self._inputs[slot], self._positions[slot] = prompt[-1], length - 1
            self.slots[slot] = number

    def _add_slots(self, wanted: int, *, columns: int) -> None:
        """Make at least ``wanted`` slots free, and lengthen every row by ``columns`` on the left, if above 0."""
        free = self.slots.count(None)
        more = 0 if free >= wanted else max(wanted - free, int(len(self.slots) * SPARE_SLOTS))
        columns = max(0, columns)
        if not more and not columns:
            return
        mask = F.pad(self._mask, (columns, 0, 0, more))
        mask[:, -1] = 1  # an empty slot attends to itself: softmax over a fully masked row is NaN
        inputs, positions = (F.pad(part, (0, 0, 0, more)) for part in (self._inputs, self._positions))
        extend(
            self._cache, more, columns
        )  # last of all that may run out of memory, so that a failure changes nothing
        self._mask, self._inputs, self._positions = mask, inputs, positions
        self._cached += columns
        self.slots += [None] * more

    def remove(self, leaving: Collection[int]) -> None:
        """Remove the rows ``leaving`` and free what only they needed."""
        self.slots = [None if row in leaving else row for row in self.slots]
        self._compact()
        self._drop_columns()

    def _compact(self) -> None:
        """Drop the empty slots once they are half of all; not sooner, since it copies the cache."""
        slots = [slot for slot, row in enumerate(self.slots) if row is not None]
        if not slots or len(slots) > len(self.slots) // 2:
            return
        index = torch.tensor(slots, device=self._device)
        if self._cached:
            select_rows(self._cache, index)
        self.slots = [self.slots[slot] for slot in slots]
        self._inputs, self._mask, self._positions = (
            kept[index] for kept in (self._inputs, self._mask, self._positions)
        )

    def _drop_columns(self) -> None:
        """Drop the columns to the left of every row's beginning."""
        slots = [slot for slot, row in enumerate(self.slots) if row is not None]
        if not slots or not self.has_begun or not accepts_rows(self._cache):
            return
        unused = min(int(self._mask[slots].argmax(1).min()), self._cached - 1)
        if unused:
            for layer in self._cache.layers:
                layer.drop_columns(unused)
            self._mask = self._mask[:, unused:]
            self._cached -= unused


@torch.inference_mode()
def prefill(
    model: PreTrainedModel | PeftModel, cache: DynamicCache, ids: Sequence[int], mode: DecodingMode
) -> None:
    """Append the tokens ``ids`` of a single row to ``cache``."""
    device = next(model.parameters()).device
    _call(model, mode, cache, input_ids=torch.tensor([list(ids)], device=device))


_ROPE_LOCK = threading.Lock()
"""A longrope model stores the rotary frequencies in use in its own module, so one thread calls it at a time."""


def _call(
    model: PreTrainedModel | PeftModel,
    mode: DecodingMode,
    cache: DynamicCache,
    *,
    input_ids: Tensor,
    **given: Tensor,
) -> Any:
    # an index tensor, not 1: with a slice the head becomes a batched product over copies of its weight
    last = torch.tensor([-1], device=input_ids.device)
    given |= {"input_ids": input_ids, "logits_to_keep": last}
    with nullcontext() if mode.rope_border is None else _ROPE_LOCK:
        return model(**given, **{mode.cache: cache}, use_cache=True)


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (ids, mask), int64 [rows, longest]: prompts end at the right edge, the mask is 0 on the padding."""
    width = max((len(prompt) for prompt in prompts), default=0)
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    both = (torch.tensor(part, dtype=torch.int64, device=device) for part in (ids, mask))
    first, second = (part.view(len(prompts), width) for part in both)
    return first, second
