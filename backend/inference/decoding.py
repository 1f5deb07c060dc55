"""The decode loop: many prompts side by side, one token each a turn, rows leave as they end.

Prompts are padded on the left, with masks and positions set so that padding changes nothing. Rows may join while
others are being continued. Every row draws from a generator of its own, so that what a row says does not depend on
the rows beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from backend.core import packed_attention
from backend.errors import InferenceError
from backend.inference.kv_cache import new_cache
from backend.inference.runner import Runner, causal_of, read, way_of
from backend.inference.sampling import Chooser, Matcher, Sampling

__all__ = ["Decoding", "NewToken", "Prefill", "Sampling", "check_prompt", "context_length", "for_inference"]


@dataclass(frozen=True)
class NewToken:
    """One generated token of prompt ``row``; ``finish`` is "" while the row goes on, else stop or length.

    ``logprob`` and the alternatives in ``top`` are the model's own, before penalties, temperature and cuts. A row
    whose next token cannot be chosen ends with an ``error`` and no token of its own.
    """

    row: int
    token_id: int
    logprob: float
    finish: str
    top: tuple[tuple[int, float], ...] = ()
    error: BaseException | None = None


class Prefill:
    """One prompt read piece by piece, all but its last token, so that nobody has to wait for a long one.

    Where the model wants a prompt in one go there is nothing to do here, and the step that continues it reads it.
    Raises InferenceError for an empty prompt or one that leaves no room in the model's context.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, prompt: Sequence[int]) -> None:
        check_prompt(prompt, context_length(model))
        self.prompt = list(prompt)
        self.cache = new_cache(model.config)
        self._model = model
        self._way = way_of(model)
        self.at_once = self._way.read_at_once(len(prompt))
        self._done = 0

    @property
    def left(self) -> int:
        """Tokens still to be read."""
        return 0 if self.at_once else len(self.prompt) - 1 - self._done

    def advance(self, tokens: int) -> None:
        """Read at most so many tokens more."""
        piece = self.prompt[self._done : self._done + min(tokens, self.left)]
        if piece:
            read(self._model, self.cache, piece, self._way)
            self._done += len(piece)


@dataclass
class _Row:
    """A row that goes on: how its tokens are chosen, all of them so far, and how many more it may have."""

    chooser: Chooser
    ids: list[int]
    room: int


class Decoding:
    """Prompts being continued. ``step()`` gives every row that is not done its next token.

    ``sampling`` is for all rows, or one for each; ``matchers`` hold rows to a form; ``known`` bool [V] says which
    token ids may be said at all. Raises InferenceError for an empty prompt or one that leaves no room in the model's
    context.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        stop_ids: Collection[int],
        matchers: Sequence[Matcher | None] = (),
        known: Tensor | None = None,
    ) -> None:
        self._model = model
        self._way = way_of(model)
        self._stop_ids = frozenset(stop_ids)
        self._limit = context_length(model)
        for prompt in prompts:
            check_prompt(prompt, self._limit)
        each = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        held = list(matchers) or [None] * len(prompts)
        self._rows: dict[int, _Row] = {}
        self._count = 0
        self._runners: list[Runner] = []
        numbers = [
            self._new_row(prompt, Chooser(wanted, prompt, matcher, known))
            for prompt, wanted, matcher in zip(prompts, each, held, strict=True)
        ]
        self._start(numbers)

    @property
    def rows(self) -> list[int]:
        """The numbers of the rows that go on, in their order."""
        return list(self._rows)

    def _new_row(self, prompt: Sequence[int], chooser: Chooser) -> int:
        row = self._count
        self._count += 1
        room = min(chooser.sampling.max_new_tokens, self._limit - len(prompt))
        self._rows[row] = _Row(chooser, list(prompt), room)
        return row

    def _start(self, numbers: Sequence[int]) -> None:
        """Rows that are read from their beginning by the next step: together where they may be."""
        if self._way.together:
            sides = [[row for row in numbers if self._is_beyond(row) == beyond] for beyond in (False, True)]
        else:
            sides = [[row] for row in numbers]
        for side in filter(None, sides):
            self._runners.append(Runner(self._model, [self._rows[row].ids for row in side], side))

    def _is_beyond(self, row: int) -> bool:
        return self._way.is_beyond(len(self._rows[row].ids))

    @torch.inference_mode()
    def step(self) -> list[NewToken]:
        """The next token of every remaining row, in the order of the seats; rows that finish leave."""
        tokens: list[NewToken] = []
        for runner in list(self._runners):
            logits = runner.logits()
            new = {
                row: self._choose(row, logits[seat])
                for seat, row in enumerate(runner.rows)
                if row in self._rows
            }
            runner.advance({row: token.token_id for row, token in new.items()})
            tokens += new.values()
        self._leave({token.row for token in tokens if token.finish})
        self._cross_the_border()
        return tokens

    @torch.inference_mode()
    def drop(self, row: int) -> None:
        """Let ``row`` go, finished or not: it gets no further token."""
        self._leave({row} & self._rows.keys())

    def abandon(self) -> None:
        """Let every row go without touching the cache, as after a step that failed half way."""
        self._rows, self._runners = {}, []

    @property
    def takes_rows(self) -> bool:
        """Whether ``join`` may be called now: nobody is left, or all have begun and can make room."""
        return all(runner.takes_rows for runner in self._runners)

    @torch.inference_mode()
    def join(self, prefill: Prefill, choosers: Sequence[Chooser]) -> list[int]:
        """Continue the prompt of ``prefill``, read to its end, in a row for each of ``choosers``; their numbers.

        What the rows already here say does not change. See ``takes_rows``.
        """
        numbers = [self._new_row(prefill.prompt, chooser) for chooser in choosers]
        try:
            mates = next((each for each in self._runners if not self._is_beyond(each.left[0])), None)
            if prefill.at_once:
                self._start(numbers)
            elif mates is None:
                runner = Runner.continuing(self._model, prefill.prompt, prefill.cache, numbers)
                self._runners.append(runner)
            else:
                mates.join(prefill.prompt, prefill.cache, numbers)
        except BaseException:
            self._leave(set(numbers))
            raise
        return numbers

    def _choose(self, row: int, logits: Tensor) -> NewToken:
        held = self._rows[row]
        try:
            chosen = held.chooser.choose(logits)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a panic of Rust code is one too, and the other rows go on
            return NewToken(row, 0, 0.0, "stop", error=error)
        held.room -= 1
        held.ids.append(chosen.token_id)
        finish = "stop" if chosen.token_id in self._stop_ids else "" if held.room else "length"
        return NewToken(row, chosen.token_id, chosen.logprob, finish, chosen.top)

    def _leave(self, leaving: Collection[int]) -> None:
        """Go on without the rows ``leaving``."""
        if not leaving:
            return
        for row in leaving:
            del self._rows[row]
        for runner in self._runners:
            runner.let_go(leaving)
        self._runners = [runner for runner in self._runners if runner.left]

    def _cross_the_border(self) -> None:
        """Read rows anew that are now too long for the rotary frequencies they were read with."""
        border = self._way.border
        crossing = [row for row in self._rows if len(self._rows[row].ids) - 1 == border]
        for row in crossing:
            for runner in self._runners:
                runner.let_go({row})
        self._runners = [runner for runner in self._runners if runner.left]
        self._start(crossing)


def context_length(model: PreTrainedModel | PeftModel) -> int:
    """Most tokens the model can look at: prompt and answer together."""
    config = model.config.get_text_config()
    said = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return int(said) if said and said > 0 else 1 << 20  # XLNet says -1: no limit


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
    causal = causal_of(model)
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
