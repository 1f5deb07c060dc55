"""The Python API for inference with a run, a checkpoint or any model.

``Inferencer(run).infer("text")`` returns the answer. The functions that rendered the training rows render the prompt,
so the model sees the ids it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from backend.core.lanes import Lanes
from backend.errors import InferenceError, TunesmithError
from backend.inference.answer import MAX_ANSWERS, Answer, answer_seed
from backend.inference.answer_text import AnswerText
from backend.inference.constraint import Constraint
from backend.inference.decoding import Decoding, NewToken, Sampling
from backend.inference.engines import check_precision
from backend.inference.loaded import LoadedBase
from backend.inference.model_source import ModelSource, find_model
from backend.inference.prompting import Prompt
from backend.inference.side_by_side import Waiting, side_by_side
from backend.run.folder import RunDir

__all__ = ["Answer", "Inferencer", "Prompt", "answer_seed"]

ROWS_AT_ONCE = 32
TOKENS_AT_ONCE = 8192
"""Most prompt tokens of one batch, padding included."""


class Inferencer:
    """A loaded model. Use it in a ``with`` block, or call ``close``, to free its memory.

    ``source`` is a run (folder or RunDir), a model folder, an alias or a Hub id. ``checkpoint`` picks a step of a run
    ("latest", "best" or a number) instead of its result. ``base=True`` leaves the adapter out. ``base_model`` is
    where the base of a run is now, if it was moved. ``strength`` scales the adapter, 0 to 2. ``dtype`` is float32,
    bfloat16 or auto, which takes the faster of them here; other readers of an adapter compute in float32 on CPU.
    ``precision`` is exact, or fast, which decodes with the weights in 8 bits where our own engine runs. A run cannot
    be deleted while its weights are loaded.

    Raises RunError (unfinished-run, damaged-checkpoint, no-such-checkpoint, base-changed), ModelError, and
    InferenceError ``bad-precision``.
    """

    def __init__(
        self,
        source: str | Path | RunDir,
        *,
        checkpoint: int | str | None = None,
        base: bool = False,
        base_model: str | Path | None = None,
        strength: float = 1.0,
        dtype: str = "float32",
        precision: str = "exact",
    ) -> None:
        check_precision(precision)
        found = find_model(source, checkpoint=checkpoint, base=base, base_model=base_model)
        self._base: LoadedBase | None = LoadedBase(found, dtype, precision)
        self._answer_as(found, strength)

    def use(
        self,
        source: str | Path | RunDir,
        *,
        checkpoint: int | str | None = None,
        base: bool = False,
        base_model: str | Path | None = None,
        strength: float = 1.0,
    ) -> None:
        """Switch to another run, checkpoint or strength over the same base, which stays loaded.

        Raises what the constructor raises, and InferenceError ``another-base`` for a model with another base, or
        ``bad-strength``; the model is then unchanged.
        """
        found = find_model(source, checkpoint=checkpoint, base=base, base_model=base_model)
        if (found.base_key, found.base_marks) != (self._loaded.key, self._loaded.marks):
            raise InferenceError(
                f"{source} has another base model than the one that is loaded.",
                remedy="Open it with an Inferencer of its own.",
                code="another-base",
            )
        self._answer_as(found, strength)

    def _answer_as(self, found: ModelSource, strength: float) -> None:
        renderer = self._loaded.renderer(found)
        self._loaded.use(found, strength)
        self.renderer = renderer

    @property
    def _loaded(self) -> LoadedBase:
        if self._base is None:
            raise InferenceError("This inferencer is closed.", remedy="Open the run again.", code="closed")
        return self._base

    @property
    def model(self) -> PreTrainedModel:
        """The loaded model, whole: the weights in use, merged. Raises InferenceError ``closed`` after ``close``."""
        return self._loaded.shared.whole()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the model in use."""
        return self.renderer.tokenizer

    @property
    def has_adapter(self) -> bool:
        """True if an adapter is in use."""
        return self._loaded.shared.used is not None

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Use the base without its adapter inside the block; prompts are rendered as before, nothing is loaded."""
        used = self._loaded.shared.used
        self._loaded.shared.use(None)
        try:
            yield
        finally:
            self._loaded.shared.use(*used or (None,))

    @property
    def identity(self) -> list[str]:
        """Texts that identify the model in use: base, adapter, mtime of its weights, strength, precision."""
        adapter, strength = self._loaded.shared.used or (None, 1.0)
        own = [str(adapter.folder), str(adapter.stamp), str(strength)] if adapter else []
        rounded = [self._loaded.precision] if self._loaded.precision != "exact" else []
        return [str(self._loaded.folder), *own, *rounded]

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.renderer.context_length

    def render(self, prompt: Prompt, *, tools: Sequence[dict[str, Any]] | None = None) -> list[int]:
        """Return the exact token ids that the model continues; see ``PromptRenderer.render``."""
        return self.renderer.render(prompt, tools=tools)

    def infer(
        self,
        prompt: Prompt,
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        stop: str | Sequence[str] = (),
        constraint: Constraint | None = None,
        **sampling: Any,
    ) -> str:
        """Return the model's answer to one prompt. ``sampling`` takes the fields of ``Sampling``; greedy by default.

        ``tools`` are rendered by the chat template; ``constraint`` restricts the answer, see ``Constraint``; ``stop``
        is one string or several that end it.
        """
        return "".join(self.stream(prompt, tools=tools, stop=stop, constraint=constraint, **sampling))

    def stream(
        self,
        prompt: Prompt,
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        stop: str | Sequence[str] = (),
        constraint: Constraint | None = None,
        **sampling: Any,
    ) -> Iterator[str]:
        """Yield the answer in pieces; joined, they are what ``infer`` returns. Closing the iterator ends decoding."""
        ids = self.render(prompt, tools=tools)
        decoding = self._decoding([ids], [_sampling(sampling)], constraint)
        answer = AnswerText(self.tokenizer, stop)
        # one lane of all threads: torch's thread count belongs to the calling thread, which is the caller's
        with Lanes(1, self._loaded.lanes) as lane:
            while not answer.finish:
                (token,) = next(lane.map(lambda _: decoding.step(), [None]))
                shown = answer.push(token)
                if shown:
                    yield shown

    def answers(
        self,
        prompt: Prompt,
        *,
        n: int = 1,
        tools: Sequence[dict[str, Any]] | None = None,
        stop: str | Sequence[str] = (),
        constraint: Constraint | None = None,
        **sampling: Any,
    ) -> list[Answer]:
        """Return ``n`` answers to one prompt with their tokens and log-probabilities, each from its own seed.

        The first is what ``infer`` returns. Raises InferenceError ``bad-sampling`` for an ``n`` out of range.
        """
        if not 1 <= n <= MAX_ANSWERS:
            raise InferenceError(
                f"n is {n}.", remedy=f"Use a number from 1 to {MAX_ANSWERS}.", code="bad-sampling"
            )
        ids, options = self.render(prompt, tools=tools), _sampling(sampling)
        each = [_numbered(options, index) for index in range(n)]
        decoding = self._decoding([ids] * n, each, constraint)
        with Lanes(1, self._loaded.lanes) as lane:
            results = next(lane.map(lambda _: self._finish_all(decoding, n, stop), [None]))
        for failed in (each for each in results if isinstance(each, TunesmithError)):
            raise failed
        return [each for each in results if isinstance(each, Answer)]

    def infer_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        tools: Sequence[Sequence[dict[str, Any]] | None] | None = None,
        stop: str | Sequence[str] = (),
        constraint: Constraint | None = None,
        first: int = 0,
        progress: Callable[[int], None] = lambda _: None,
        **sampling: Any,
    ) -> list[str | TunesmithError]:
        """Return the texts of ``answer_batch``, which takes the same options and raises the same errors."""
        found = self.answer_batch(
            prompts,
            tools=tools,
            stop=stop,
            constraint=constraint,
            first=first,
            progress=progress,
            **sampling,
        )
        return [each.text if isinstance(each, Answer) else each for each in found]

    def answer_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        tools: Sequence[Sequence[dict[str, Any]] | None] | None = None,
        stop: str | Sequence[str] = (),
        constraint: Constraint | None = None,
        first: int = 0,
        progress: Callable[[int], None] = lambda _: None,
        **sampling: Any,
    ) -> list[Answer | TunesmithError]:
        """Return the answers in the order of ``prompts``; under greedy decoding, the same as one by one.

        If ``seed`` is given, every prompt samples with it, as if it were alone. Otherwise prompt i samples with seed
        number ``first`` + i: equal prompts get different answers, and the same ones in the next call. A prompt that
        fails has its error in its place; the others are still answered.

        ``tools`` has those of each prompt. ``progress`` is called with the number of prompts just done. Raises
        InferenceError for faults of the call itself: ``bad-tools``, ``bad-sampling``, ``bad-constraint``.
        """
        if tools is not None and len(tools) != len(prompts):
            raise InferenceError(
                f"There are {len(prompts)} prompts, and tools for {len(tools)}.",
                remedy="Give tools for each prompt, None for one without.",
                code="bad-tools",
            )
        options = _sampling(sampling)
        numbered = "seed" not in sampling
        self.renderer.matcher(constraint)  # raises here if nothing can satisfy it, and not once per row
        results: list[Answer | TunesmithError] = []
        rendered: dict[int, list[int]] = {}
        for index, (prompt, own) in enumerate(zip(prompts, tools or [None] * len(prompts), strict=True)):
            try:
                rendered[index] = self.render(prompt, tools=own)
                results.append(Answer("", "", ()))
            except TunesmithError as error:
                results.append(error)
        if len(rendered) < len(results):
            progress(len(results) - len(rendered))
        each = {index: _numbered(options, first + index) if numbered else options for index in rendered}
        work = partial(self._decode, rendered, each, stop, constraint)
        for index, answer in side_by_side(work, self._groups(rendered), self._loaded.lanes):
            results[index] = answer
            progress(1)
        return results

    def _groups(self, rendered: Mapping[int, list[int]]) -> list[Waiting]:
        """Return what each lane takes its prompts from: with the engine all from one, else a batch from each."""
        if self._loaded.without_engine:
            return [Waiting(chunk) for chunk in _chunks(rendered)]
        # by their tokens, so that prompts with the same beginning are side by side
        return [Waiting(sorted(rendered, key=rendered.__getitem__))] * self._loaded.lanes

    def _decode(
        self,
        rendered: Mapping[int, list[int]],
        samplings: Mapping[int, Sampling],
        stop: str | Sequence[str],
        constraint: Constraint | None,
        waiting: Waiting,
    ) -> Iterator[tuple[int, Answer | TunesmithError]]:
        """Yield the answers to prompts of ``waiting`` as they are finished; others then take their place."""
        decoding = self._decoding([], [], constraint)
        indices: dict[int, int] = {}

        def fill() -> None:
            rows = decoding.rows
            room = TOKENS_AT_ONCE - sum(len(rendered[indices[row]]) for row in rows)
            taken = waiting.take(
                ROWS_AT_ONCE - len(rows), room, lambda index: len(rendered[index]), alone=not rows
            )
            matchers = [self.renderer.matcher(constraint) for _ in taken]
            prompts, own = [rendered[index] for index in taken], [samplings[index] for index in taken]
            indices.update(zip(decoding.begin(prompts, own, matchers), taken, strict=True))

        fill()
        for row, answer in self._finished(decoding, stop):
            yield indices[row], answer
            fill()

    def _decoding(
        self, prompts: Sequence[list[int]], samplings: Sequence[Sampling], constraint: Constraint | None
    ) -> Decoding:
        renderer = self.renderer
        matchers = [renderer.matcher(constraint) for _ in prompts]
        model = self._loaded.shared.model
        return Decoding(model, prompts, samplings, renderer.stop_ids, matchers, renderer.known)

    def _finish_all(
        self, decoding: Decoding, count: int, stop: str | Sequence[str]
    ) -> list[Answer | TunesmithError]:
        """Decode until every row has finished; a row that failed has its error in its place."""
        found = dict(self._finished(decoding, stop))
        return [found[row] for row in range(count)]

    def _finished(
        self, decoding: Decoding, stop: str | Sequence[str]
    ) -> Iterator[tuple[int, Answer | TunesmithError]]:
        """Decode and yield each row as it finishes, with its error if it failed; rows may begin meanwhile."""
        texts: dict[int, AnswerText] = {}
        tokens: dict[int, list[NewToken]] = {}
        while decoding.rows:
            for token in decoding.step():
                text = texts.setdefault(token.row, AnswerText(self.tokenizer, stop))
                tokens.setdefault(token.row, []).append(token)
                failed: TunesmithError | None = None
                try:
                    text.push(token)
                except TunesmithError as error:
                    failed = error
                if (failed or text.finish) and not token.finish:
                    decoding.drop(token.row)
                if failed or text.finish or token.finish:
                    del texts[token.row]
                    yield token.row, failed or Answer(text.text, text.finish, tuple(tokens.pop(token.row)))

    def close(self) -> None:
        """Free the model and release its run; nothing else may be called afterwards. Closing twice is harmless."""
        if self._base is not None:
            self._base.close()
        self._base = None

    def __enter__(self) -> Inferencer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _numbered(options: Sampling, index: int) -> Sampling:
    return replace(options, seed=answer_seed(options.seed, index))


def _sampling(options: dict[str, Any]) -> Sampling:
    try:
        return Sampling(**options)
    except TypeError as error:
        known = ", ".join(Sampling.__dataclass_fields__)
        raise InferenceError(
            f"{error}.".replace("Sampling.__init__() got an ", "").capitalize(),
            remedy=f"Sampling options are {known}.",
            code="bad-sampling",
        ) from error


def _chunks(rendered: Mapping[int, list[int]]) -> Iterator[list[int]]:
    """Yield batches of prompt indices: similar in length, within ``ROWS_AT_ONCE`` and ``TOKENS_AT_ONCE``."""
    chunk: list[int] = []
    for index in sorted(rendered, key=lambda i: (len(rendered[i]), rendered[i])):
        if chunk and (len(chunk) == ROWS_AT_ONCE or (len(chunk) + 1) * len(rendered[index]) > TOKENS_AT_ONCE):
            yield chunk
            chunk = []
        chunk.append(index)
    if chunk:
        yield chunk
