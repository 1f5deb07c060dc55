"""The decode loop with continuous batching: each step gives every row one token; rows leave and join between steps.

Prompts are padded on the left, with masks and position ids that cancel the padding. Each row samples from a generator
of its own, so its answer does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from backend.core import packed_attention
from backend.core.engine.forward import Reading
from backend.core.engine.seat import Seat
from backend.errors import InferenceError
from backend.inference.decoding_mode import causal_of, decoding_mode
from backend.inference.engine_runner import EngineRunner
from backend.inference.engines import engine_of, with_current_weights
from backend.inference.kv_cache import new_cache
from backend.inference.runner import ModelRunner, Runner, prefill
from backend.inference.sampling import Matcher, Sampler, Sampling

__all__ = ["Decoding", "NewToken", "Prefill", "Sampling", "check_prompt", "context_length", "for_inference"]


@dataclass(frozen=True)
class NewToken:
    """One generated token of row ``row``; ``finish`` is "" until the last one, then ``stop`` or ``length``.

    ``logprob`` and the alternatives in ``top`` are the model's own, before penalties, temperature, top_k and top_p.
    If sampling fails, the row ends with ``error`` set and a ``token_id`` that means nothing.
    """

    row: int
    token_id: int
    logprob: float
    finish: str
    top: tuple[tuple[int, float], ...] = ()
    error: BaseException | None = None


class Prefill:
    """Chunked prefill of one prompt, all but its last token, so that other rows need not wait for a long prompt.

    If the model must process a prompt whole (``one_pass``), nothing is done here and the row's first step does it.
    Raises InferenceError for an empty prompt or one that fills the model's context.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, prompt: Sequence[int]) -> None:
        check_prompt(prompt, context_length(model))
        self.prompt = list(prompt)
        self._engine = engine_of(model)
        self.cache: Any = new_cache(model.config) if self._engine is None else Seat(self._engine.block)
        self._model = model
        self._mode = decoding_mode(model)
        self.one_pass = self._engine is None and self._mode.needs_one_pass(len(prompt))
        self._done = 0

    @property
    def left(self) -> int:
        """Tokens still to be processed."""
        return 0 if self.one_pass else len(self.prompt) - 1 - self._done

    def advance(self, tokens: int) -> None:
        """Process at most ``tokens`` more tokens."""
        piece = self.prompt[self._done : self._done + min(tokens, self.left)]
        if piece and self._engine is not None:
            self._engine.read([Reading(self.cache, piece, asks=False)])
        elif piece:
            prefill(self._model, self.cache, piece, self._mode)
        self._done += len(piece)


@dataclass
class _Row:
    """A row being generated: its sampler, all token ids so far, prompt included, and how many more it may get."""

    sampler: Sampler
    ids: list[int]
    tokens_left: int


class Decoding:
    """A batch of prompts being answered; ``step()`` gives every unfinished row its next token.

    ``sampling`` is one for all rows, or one per row. ``matchers`` constrain the answer of each row, see
    ``constraint``. ``known`` bool [V] masks the token ids that may be generated. Raises InferenceError for an empty
    prompt or one that fills the model's context.
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
        self._mode = decoding_mode(model)
        self._engine = engine_of(model)
        self._stop_ids = frozenset(stop_ids)
        self._limit = context_length(model)
        self._known = known
        self._rows: dict[int, _Row] = {}
        self._count = 0
        self._runners: list[Runner] = []
        each = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        self.begin(prompts, each, list(matchers) or [None] * len(prompts))

    def begin(
        self,
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[Sampling],
        matchers: Sequence[Matcher | None],
    ) -> list[int]:
        """Add a row for each of ``prompts``, which the next step reads; return their numbers.

        The answers of other rows do not change. Raises InferenceError for an empty prompt or one that is too long.
        """
        for prompt in prompts:
            check_prompt(prompt, self._limit)
        numbers = [
            self._new_row(prompt, Sampler(sampling, prompt, matcher, self._known))
            for prompt, sampling, matcher in zip(prompts, samplings, matchers, strict=True)
        ]
        self._start(numbers)
        return numbers

    @property
    def rows(self) -> list[int]:
        """The numbers of the unfinished rows, in order."""
        return list(self._rows)

    def _new_row(self, prompt: Sequence[int], sampler: Sampler) -> int:
        row = self._count
        self._count += 1
        tokens_left = min(sampler.sampling.max_new_tokens, self._limit - len(prompt))
        self._rows[row] = _Row(sampler, list(prompt), tokens_left)
        return row

    def _start(self, numbers: Sequence[int]) -> None:
        """Make runners that process these rows from their beginning in the next step, in as few batches as may be."""
        if self._engine is not None:
            prompts = [self._rows[row].ids for row in numbers]
            host = next((each for each in self._runners if isinstance(each, EngineRunner)), None)
            if host is not None:
                host.begin(prompts, numbers)
            elif numbers:
                self._runners.append(EngineRunner(self._engine, prompts, numbers))
            return
        if self._mode.batched:
            sides = [
                [row for row in numbers if self._is_past_border(row) == beyond] for beyond in (False, True)
            ]
        else:
            sides = [[row] for row in numbers]
        for side in filter(None, sides):
            self._runners.append(ModelRunner(self._model, [self._rows[row].ids for row in side], side))

    def _is_past_border(self, row: int) -> bool:
        return self._mode.is_past_border(len(self._rows[row].ids))

    @torch.inference_mode()
    def step(self) -> list[NewToken]:
        """Return the next token of every unfinished row; rows that finish are removed."""
        tokens: list[NewToken] = []
        for runner in list(self._runners):
            logits = runner.logits()
            new = {
                row: self._choose(row, logits[slot])
                for slot, row in enumerate(runner.slots)
                if row in self._rows
            }
            runner.advance({row: token.token_id for row, token in new.items()})
            tokens += new.values()
        self._remove({token.row for token in tokens if token.finish})
        self._restart_past_rope_border()
        return tokens

    @torch.inference_mode()
    def drop(self, row: int) -> None:
        """Remove ``row``, finished or not; it gets no further token."""
        self._remove({row} & self._rows.keys())

    def abandon(self) -> None:
        """Remove all rows without touching the cache, whose state is unknown after a step that failed."""
        self._rows, self._runners = {}, []

    @property
    def accepts_rows(self) -> bool:
        """True if ``join`` may be called now: all rows are past their first step, and their cache can take more."""
        return all(runner.accepts_rows for runner in self._runners)

    @torch.inference_mode()
    def join(self, prefill: Prefill, samplers: Sequence[Sampler]) -> list[int]:
        """Add a row for each of ``samplers`` that continues the prompt of a complete ``prefill``; return the numbers.

        The answers of the rows already here do not change. Call it only while ``accepts_rows``.
        """
        numbers = [self._new_row(prefill.prompt, sampler) for sampler in samplers]
        try:
            host = next((each for each in self._runners if not self._is_past_border(each.active[0])), None)
            if prefill.one_pass:
                self._start(numbers)
            elif host is None:
                self._runners.append(self._continuing(prefill, numbers))
            else:
                host.join(prefill.prompt, prefill.cache, numbers)
        except BaseException:
            self._remove(set(numbers))
            raise
        return numbers

    def _continuing(self, prefill: Prefill, numbers: Sequence[int]) -> Runner:
        """Return a runner of these rows alone, which all continue the prompt of ``prefill``."""
        if self._engine is None:
            return ModelRunner.continuing(self._model, prefill.prompt, prefill.cache, numbers)
        runner = EngineRunner(self._engine, [], [])
        runner.join(prefill.prompt, prefill.cache, numbers)
        return runner

    def _choose(self, row: int, logits: Tensor) -> NewToken:
        held = self._rows[row]
        try:
            chosen = held.sampler.choose(logits)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - so is a panic in Rust code; the other rows go on
            return NewToken(row, 0, 0.0, "stop", error=error)
        held.tokens_left -= 1
        held.ids.append(chosen.token_id)
        finish = "stop" if chosen.token_id in self._stop_ids else "" if held.tokens_left else "length"
        return NewToken(row, chosen.token_id, chosen.logprob, finish, chosen.top)

    def _remove(self, leaving: Collection[int]) -> None:
        """Remove the rows ``leaving``."""
        if not leaving:
            return
        for row in leaving:
            del self._rows[row]
        for runner in self._runners:
            runner.remove(leaving)
        self._runners = [runner for runner in self._runners if runner.active]

    def _restart_past_rope_border(self) -> None:
        """Process rows again from their beginning that have just become longer than the rope border.

        All their positions now have other rotary frequencies, so what is cached for them is wrong.
        """
        border = self._mode.rope_border
        crossing = [row for row in self._rows if len(self._rows[row].ids) - 1 == border]
        for row in crossing:
            for runner in self._runners:
                runner.remove({row})
        self._runners = [runner for runner in self._runners if runner.active]
        self._start(crossing)


def context_length(model: PreTrainedModel | PeftModel) -> int:
    """Return the most tokens the model can attend to, prompt and answer together."""
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return int(limit) if limit and limit > 0 else 1 << 20  # XLNet has -1: no limit


def check_prompt(prompt: Sequence[int], limit: int) -> None:
    """Raise InferenceError unless ``prompt`` has at least one token and at least one more fits below ``limit``."""
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
    """Put a model in training into a state to generate in, inside the block: ordinary attention, eval mode.

    Its own engine decodes it there, from the weights it has on entry, if it has one.
    """
    causal = causal_of(model)
    packed, training = causal.config._attn_implementation == packed_attention.NAME, model.training
    if packed:
        causal.set_attn_implementation("sdpa" if causal._supports_sdpa else "eager")
    model.eval()
    try:
        with with_current_weights(model):
            yield
    finally:
        if packed:
            causal.set_attn_implementation(packed_attention.NAME)
        model.train(training)
