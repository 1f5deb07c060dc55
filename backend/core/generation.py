"""The decode loop: many prompts side by side, one token each a turn, rows leave as they end. Floor F1.

Prompts are padded on the left, with masks and positions set so that padding changes nothing. Rows may join while
others are being continued. Every row draws from a generator of its own, so that what a row says does not depend on
the rows beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from backend.core import packed_attention
from backend.core.batching import common_prefix
from backend.core.kv_cache import new_cache, takes_rows
from backend.core.sampling import Chooser, Matcher, Sampling
from backend.errors import InferenceError

__all__ = ["Decoding", "NewToken", "Prefill", "Sampling", "check_prompt", "context_length", "for_inference"]

MIN_SHARED = 8
"""A common beginning shorter than this, in tokens, is not worth computing apart."""
SPARE_SEATS = 0.5
"""Seats that are made at once when one is wanted, as a share of those there are."""


@dataclass(frozen=True)
class NewToken:
    """One generated token of prompt ``row``; ``finish`` is "" while the row goes on, else stop or length.

    ``logprob`` and the alternatives in ``top`` are the model's own, before penalties, temperature and cuts. A row
    whose form cannot be followed any further ends with an ``error`` and no token of its own.
    """

    row: int
    token_id: int
    logprob: float
    finish: str
    top: tuple[tuple[int, float], ...] = ()
    error: InferenceError | None = None


class Prefill:
    """One prompt read piece by piece, all but its last token, so that nobody has to wait for a long one.

    Raises InferenceError for an empty prompt or one that leaves no room in the model's context.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, prompt: Sequence[int]) -> None:
        check_prompt(prompt, context_length(model))
        self.prompt = list(prompt)
        self.cache = new_cache(model.config)
        self._model = model
        self._last = torch.tensor([-1], device=model.device)

    @property
    def left(self) -> int:
        """Tokens still to be read."""
        return len(self.prompt) - 1 - int(self.cache.get_seq_length())

    @torch.inference_mode()
    def advance(self, tokens: int) -> None:
        """Read at most so many tokens more."""
        done = self.cache.get_seq_length()
        piece = self.prompt[done : min(done + tokens, len(self.prompt) - 1)]
        if piece:
            ids = torch.tensor([piece], device=self._model.device)
            self._model(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=self._last)


class Decoding:
    """Prompts being continued. ``step()`` gives every row that is not done its next token.

    ``sampling`` is for all rows, or one for each; ``matchers`` hold rows to a form. Raises InferenceError for an
    empty prompt or one that leaves no room in the model's context.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        stop_ids: Collection[int],
        matchers: Sequence[Matcher | None] = (),
    ) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._stop_ids = frozenset(stop_ids)
        self._limit = context_length(model)
        for prompt in prompts:
            check_prompt(prompt, self._limit)
        each = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        held = list(matchers) or [None] * len(prompts)
        self._room: dict[int, int] = {}
        self._choosers: dict[int, Chooser] = {}
        self.rows: list[int] = []
        self._seats: list[int] = []
        self._count = 0
        for prompt, wanted, matcher in zip(prompts, each, held, strict=True):
            self._seats.append(self._new_row(len(prompt), Chooser(wanted, prompt, matcher)))
        # an index, not a number: a slice would make the head a batched product over copies of its weight
        self._last = torch.tensor([-1], device=self._device)
        self._cache = new_cache(model.config)
        shared = self._prefill_shared(prompts)
        self._inputs, mask = _left_padded([prompt[shared:] for prompt in prompts], self._device)
        self._positions = shared + (mask.cumsum(1) - 1).clamp(min=0)
        self._mask = torch.cat([mask.new_ones(len(prompts), shared), mask], dim=1)

    def _new_row(self, length: int, chooser: Chooser) -> int:
        row = self._count
        self._count += 1
        self._room[row] = min(chooser.sampling.max_new_tokens, self._limit - length)
        self._choosers[row] = chooser
        self.rows.append(row)
        return row

    @torch.inference_mode()
    def _prefill_shared(self, prompts: Sequence[Sequence[int]]) -> int:
        """Compute the beginning that all prompts share once, for all; returns its length in tokens.

        Only where mask and positions are all that tells attention where a token stands: a window, a state or a
        bias by distance would count the padding between the beginning and the rest.
        """
        by_mask = takes_rows(self._cache) and self._model._supports_attention_backend
        if len(prompts) < 2 or not by_mask:
            return 0
        shortest = min(len(prompt) for prompt in prompts)
        arrays = [np.asarray(prompt[:shortest]) for prompt in prompts]
        shared = min(shortest - 1, *(common_prefix(arrays[0], array) for array in arrays[1:]))
        if shared < MIN_SHARED:
            return 0
        ids = torch.tensor([list(prompts[0][:shared])], device=self._device)
        self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=self._last)
        self._cache.batch_repeat_interleave(len(prompts))
        return shared

    @torch.inference_mode()
    def step(self) -> list[NewToken]:
        """The next token of every remaining row, in the order of the seats; rows that finish leave."""
        if not self.rows:
            return []
        logits = (
            self._model(
                input_ids=self._inputs,
                attention_mask=self._mask,
                position_ids=self._positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=self._last,
            )
            .logits[:, -1]
            .float()
        )
        going = set(self.rows)
        tokens = {
            seat: self._choose(row, logits[seat]) for seat, row in enumerate(self._seats) if row in going
        }
        self._advance(tokens)
        return list(tokens.values())

    def drop(self, row: int) -> None:
        """Let ``row`` go, finished or not: it gets no further token."""
        self._keep([other for other in self.rows if other != row])

    @property
    def takes_rows(self) -> bool:
        """Whether ``join`` may be called now: nobody is left, or all have begun and can make room."""
        return not self.rows or (self._begun and takes_rows(self._cache))

    @property
    def _begun(self) -> bool:
        """Whether the cache holds all of every row but its last token, which is the next input."""
        held = self._cache.get_seq_length()
        return bool(held) and self._mask.shape[1] == held + 1

    @torch.inference_mode()
    def join(self, prefill: Prefill, choosers: Sequence[Chooser]) -> list[int]:
        """Continue the prompt of ``prefill``, read to its end, in a row for each of ``choosers``; their numbers.

        What the rows already here say does not change. See ``takes_rows``.
        """
        rows = [self._new_row(len(prefill.prompt), chooser) for chooser in choosers]
        length = len(prefill.prompt)
        if len(self.rows) == len(rows):
            self._begin(prefill, rows)
            return rows
        self._make_seats(len(rows), columns=length - self._mask.shape[1])
        for row in rows:
            seat = next(seat for seat, held in enumerate(self._seats) if held not in self._choosers)
            self._seats[seat] = row
            if length > 1:
                for layer, read in zip(self._cache.layers, prefill.cache.layers, strict=True):
                    layer.write(seat, read)
            self._mask[seat] = 0
            self._mask[seat, -length:] = 1
            self._inputs[seat], self._positions[seat] = prefill.prompt[-1], length - 1
        return rows

    def _begin(self, prefill: Prefill, rows: list[int]) -> None:
        """Start over with these rows alone."""
        self._seats = list(rows)
        self._cache = prefill.cache
        if len(rows) > 1 and self._cache.get_seq_length():
            self._cache.batch_repeat_interleave(len(rows))
        shape, length = (len(rows), 1), len(prefill.prompt)
        self._inputs = torch.full(shape, prefill.prompt[-1], device=self._device)
        self._positions = torch.full(shape, length - 1, device=self._device)
        self._mask = self._inputs.new_ones(len(rows), length)

    def _make_seats(self, wanted: int, *, columns: int) -> None:
        """Room for ``wanted`` more rows and, where ``columns`` is above 0, for longer ones."""
        free = sum(held not in self._choosers for held in self._seats)
        more = 0 if free >= wanted else max(wanted - free, int(len(self._seats) * SPARE_SEATS))
        columns = max(0, columns)
        if not more and not columns:
            return
        for layer in self._cache.layers:
            layer.extend(more, columns)
        self._seats += [-1] * more
        self._mask = F.pad(self._mask, (columns, 0, 0, more))
        self._mask[:, -1] = 1  # an empty seat looks at itself: a row of nothing but masked places is NaN
        self._inputs, self._positions = (
            F.pad(part, (0, 0, 0, more)) for part in (self._inputs, self._positions)
        )

    def _choose(self, row: int, logits: Tensor) -> NewToken:
        try:
            chosen = self._choosers[row].choose(logits)
        except InferenceError as error:  # the rows beside it go on
            return NewToken(row, 0, 0.0, "stop", error=error)
        self._room[row] -= 1
        finish = "stop" if chosen.token_id in self._stop_ids else "" if self._room[row] else "length"
        return NewToken(row, chosen.token_id, chosen.logprob, finish, chosen.top)

    def _advance(self, tokens: Mapping[int, NewToken]) -> None:
        """Make the new tokens, by seat, the next input; rows that finished leave."""
        ids = [[tokens[seat].token_id if seat in tokens else 0] for seat in range(len(self._seats))]
        self._inputs = torch.tensor(ids, device=self._device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(ids), 1)], dim=1)
        # a row that ended where the context does keeps its seat for a while: hold its position inside
        self._positions = (self._positions[:, -1:] + 1).clamp(max=self._limit - 1)
        self._keep([token.row for token in tokens.values() if not token.finish])

    def _keep(self, rows: list[int]) -> None:
        """Go on with ``rows`` alone; what only the others needed is given up."""
        for row in {*self.rows} - {*rows}:
            del self._choosers[row], self._room[row]
        if rows != self.rows:
            self.rows = rows
            self._close_ranks()
            self._drop_columns()

    def _drop_columns(self) -> None:
        """Forget the places left of the beginning of the longest row."""
        if not self.rows or not self._begun or not takes_rows(self._cache):
            return
        seats = [self._seats.index(row) for row in self.rows]
        unused = min(int(self._mask[seats].argmax(1).min()), self._cache.get_seq_length() - 1)
        if unused:
            for layer in self._cache.layers:
                layer.drop_columns(unused)
            self._mask = self._mask[:, unused:]

    def _close_ranks(self) -> None:
        """Give up the seats of rows that left once half of them are empty: moving the others costs a copy."""
        if not self.rows or len(self.rows) > len(self._seats) // 2:
            return
        index = torch.tensor([self._seats.index(row) for row in self.rows], device=self._device)
        self._seats = list(self.rows)
        self._inputs, self._mask, self._positions = (
            kept[index] for kept in (self._inputs, self._mask, self._positions)
        )
        if self._cache.get_seq_length():
            self._cache.batch_select_indices(index)


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask), int64 [rows, longest]: prompts end at the right edge, the mask is 0 before they begin."""
    width = max((len(prompt) for prompt in prompts), default=0)
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    both = (torch.tensor(part, dtype=torch.int64, device=device) for part in (ids, mask))
    first, second = (part.view(len(prompts), width) for part in both)
    return first, second


def context_length(model: PreTrainedModel | PeftModel) -> int:
    """Most tokens the model can look at: prompt and answer together."""
    config = model.config.get_text_config()
    return int(
        getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 20
    )


def check_prompt(prompt: Sequence[int], limit: int) -> None:
    """Raise InferenceError unless ``prompt`` has at least one token and leaves room for at least one more."""
    if not prompt:
        raise InferenceError("The prompt is empty.", remedy="Write a prompt.", code="empty-prompt")
    if len(prompt) >= limit:
        raise InferenceError(
            f"The prompt has {len(prompt)} tokens, and this model can take {limit - 1} before it answers.",
            remedy="Shorten the prompt.",
            code="prompt-too-long",
        )


@contextmanager
def for_inference(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """A training model made ready to generate: unpacked attention, no dropout; as it was afterwards."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    packed, training = causal.config._attn_implementation == packed_attention.NAME, model.training
    if packed:
        causal.set_attn_implementation("sdpa" if causal._supports_sdpa else "eager")
    model.eval()
    try:
        yield
    finally:
        if packed:
            causal.set_attn_implementation(packed_attention.NAME)
        model.train(training)
