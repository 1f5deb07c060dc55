"""Inference from Python: a run, a checkpoint or any model.

``Inferencer(run).infer("text")`` answers; the prompt is rendered by the same code that rendered the training
rows, so the model sees the ids it learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
from backend.inference.loaded import LoadedBase
from backend.inference.model_source import ModelSource, find_model
from backend.inference.prompting import Prompt
from backend.run.folder import RunDir

__all__ = ["Answer", "Inferencer", "Prompt", "answer_seed"]

ROWS_AT_ONCE = 32
TOKENS_AT_ONCE = 8192
"""Most prompt tokens decoded side by side."""


class Inferencer:
    """A loaded model. Use it in a ``with`` block, or ``close`` it, to give its memory back.

    ``source`` is a run (folder or RunDir), a model folder, alias or hub id. ``checkpoint`` picks a step of a run
    ("latest", "best" or a number) instead of its result; ``base=True`` leaves the adapter away; ``base_model`` is
    where the base of a run lies now, if it was moved; ``strength`` is how much of the adapter counts. Weights are
    used in float32 on CPU, which is what other readers compare against. A run whose weights are in use cannot be
    deleted meanwhile.

    ``dtype`` is float32, bfloat16 or auto, which takes whichever is faster here.

    Raises RunError (unfinished-run, damaged-checkpoint, no-such-checkpoint, base-changed) and ModelError.
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
    ) -> None:
        found = find_model(source, checkpoint=checkpoint, base=base, base_model=base_model)
        self._base: LoadedBase | None = LoadedBase(found, dtype)
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
        """Answer from now on with another run, checkpoint or strength over the same base, which stays loaded.

        Raises what the class raises, and InferenceError ``another-base`` for a model over another base, or
        ``bad-strength``; the model then goes on as it was.
        """
        found = find_model(source, checkpoint=checkpoint, base=base, base_model=base_model)
        if (found.base, found.base_marks) != (self._loaded.folder, self._loaded.marks):
            raise InferenceError(
                f"{source} stands on another base model than the one that is loaded.",
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
        """The loaded model. Raises InferenceError (closed) once its memory was given back."""
        return self._loaded.shared.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the model in use."""
        return self.renderer.tokenizer

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter answers, which ``as_base`` leaves away."""
        return self._loaded.shared.used is not None

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Meanwhile the base answers, to the same prompts; nothing is loaded."""
        used = self._loaded.shared.used
        self._loaded.shared.use(None)
        try:
            yield
        finally:
            self._loaded.shared.use(*used or (None,))

    @property
    def identity(self) -> list[str]:
        """What answers: base, adapter, the time of its weights, and its strength."""
        adapter, strength = self._loaded.shared.used or (None, 1.0)
        own = [str(adapter.folder), str(adapter.stamp), str(strength)] if adapter else []
        return [str(self._loaded.folder), *own]

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.renderer.context_length

    def render(self, prompt: Prompt, *, tools: Sequence[dict[str, Any]] | None = None) -> list[int]:
        """The exact token ids the model continues from; see ``PromptRenderer.render``."""
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
        """The model's answer to one prompt. ``sampling`` takes the fields of ``Sampling``; greedy by default.

        ``tools`` are shown to the model by its chat template; ``constraint`` is the form its answer must have;
        ``stop`` strings, one or several, end it.
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
        """The answer piece by piece; joined, the pieces are what ``infer`` returns. Closing it ends the work."""
        ids = self.render(prompt, tools=tools)
        decoding = self._decoding([ids], [_sampling(sampling)], constraint)
        answer = AnswerText(self.tokenizer, stop)
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
        """``n`` answers to one prompt with their tokens and log-probabilities, each from a seed of its own.

        The first is what ``infer`` answers. Raises InferenceError ``bad-sampling`` for an ``n`` out of range.
        """
        if not 1 <= n <= MAX_ANSWERS:
            raise InferenceError(
                f"n is {n}.", remedy=f"Use a number from 1 to {MAX_ANSWERS}.", code="bad-sampling"
            )
        ids, options = self.render(prompt, tools=tools), _sampling(sampling)
        each = [_numbered(options, index) for index in range(n)]
        decoding = self._decoding([ids] * n, each, constraint)
        with Lanes(1, self._loaded.lanes) as lane:
            said = next(lane.map(lambda _: self._read_out(decoding, n, stop), [None]))
        for failed in (each for each in said if isinstance(each, TunesmithError)):
            raise failed
        return [each for each in said if isinstance(each, Answer)]

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
        """Return answers in the order of ``prompts``, the same as one by one under greedy decoding.

        With a ``seed`` every prompt is drawn as if it were alone. Without one the draws are numbered through, from
        ``first`` on, so that equal prompts are answered differently, and the same again the next time. A prompt that
        cannot be answered, or whose answer fails while it is written, has its error in its place, and the others are
        answered all the same.

        ``tools`` are those of each prompt. ``progress`` is told how many more prompts are done. Raises InferenceError
        for what is wrong with the call itself: ``bad-tools``, ``bad-sampling``, ``bad-constraint``.
        """
        if tools is not None and len(tools) != len(prompts):
            raise InferenceError(
                f"There are {len(prompts)} prompts, and tools for {len(tools)}.",
                remedy="Give tools for each prompt, None for one without.",
                code="bad-tools",
            )
        options = _sampling(sampling)
        numbered = "seed" not in sampling
        self.renderer.matcher(constraint)  # one that nothing can have is the caller's error, not a row's
        results: list[str | TunesmithError] = []
        rendered: dict[int, list[int]] = {}
        for index, (prompt, own) in enumerate(zip(prompts, tools or [None] * len(prompts), strict=True)):
            try:
                rendered[index] = self.render(prompt, tools=own)
                results.append("")
            except TunesmithError as error:
                results.append(error)
        if len(rendered) < len(results):
            progress(len(results) - len(rendered))
        with Lanes(self._loaded.lanes) as lanes:
            chunks = list(_chunks(rendered))
            for chunk, texts in zip(
                chunks,
                lanes.map(
                    lambda chunk: self._decode(
                        [rendered[index] for index in chunk],
                        [_numbered(options, first + index) if numbered else options for index in chunk],
                        stop,
                        constraint,
                    ),
                    chunks,
                ),
                strict=True,
            ):
                for index, text in zip(chunk, texts, strict=True):
                    results[index] = text
                progress(len(chunk))
        return results

    def _decode(
        self,
        prompts: Sequence[list[int]],
        samplings: Sequence[Sampling],
        stop: str | Sequence[str],
        constraint: Constraint | None,
    ) -> list[str | TunesmithError]:
        decoding = self._decoding(prompts, samplings, constraint)
        said = self._read_out(decoding, len(prompts), stop)
        return [one.text if isinstance(one, Answer) else one for one in said]

    def _decoding(
        self, prompts: Sequence[list[int]], samplings: Sequence[Sampling], constraint: Constraint | None
    ) -> Decoding:
        renderer = self.renderer
        matchers = [renderer.matcher(constraint) for _ in prompts]
        return Decoding(self.model, prompts, samplings, renderer.stop_ids, matchers, renderer.known)

    def _read_out(
        self, decoding: Decoding, count: int, stop: str | Sequence[str]
    ) -> list[Answer | TunesmithError]:
        """Decode until every row has ended; a row that failed has its error in its place."""
        texts = [AnswerText(self.tokenizer, stop) for _ in range(count)]
        tokens: list[list[NewToken]] = [[] for _ in texts]
        failed: dict[int, TunesmithError] = {}
        while decoding.rows:
            for token in decoding.step():
                tokens[token.row].append(token)
                try:
                    texts[token.row].push(token)
                except TunesmithError as error:
                    failed[token.row] = error
                if texts[token.row].finish and not token.finish:
                    decoding.drop(token.row)
        return [
            failed.get(row) or Answer(text.text, text.finish, tuple(said))
            for row, (text, said) in enumerate(zip(texts, tokens, strict=True))
        ]

    def close(self) -> None:
        """Give the model's memory back and let go of its run; it cannot be used then. Closing twice is harmless."""
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


def _chunks(rendered: dict[int, list[int]]) -> Iterator[list[int]]:
    """Indices of prompts of similar length, few enough to decode side by side."""
    chunk: list[int] = []
    for index in sorted(rendered, key=lambda i: (len(rendered[i]), rendered[i])):
        if chunk and (len(chunk) == ROWS_AT_ONCE or (len(chunk) + 1) * len(rendered[index]) > TOKENS_AT_ONCE):
            yield chunk
            chunk = []
        chunk.append(index)
    if chunk:
        yield chunk
