"""The prompts and answers of a run that samples its own, as token ids with what a reward may look at. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from backend.core.encoding.examples import Question
from backend.errors import DataError
from backend.run.config import DataConfig


@dataclass(frozen=True)
class Prompt(Question):
    """A row to answer. ``messages`` is its prompt as messages, ``columns`` every cell of its record by name.

    ``expected`` is "" for a row without an answer.
    """

    messages: Sequence[Mapping[str, Any]] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """A sampled answer: its token ids, the end token among them, and its text without.

    ``is_truncated``: it reached the most tokens that an answer may have, or that fit the model.
    """

    ids: tuple[int, ...]
    text: str
    is_truncated: bool


class Prompts(Sequence[Prompt]):
    """The prompts of a run that leave room for ``answer_tokens`` within ``data.max_length``.

    It counts and names rows as ``EncodedRows`` does; ``tokens`` are those of prompts and longest answers,
    ``generations`` of them to each prompt. Raises DataError ``too-long`` for a prompt without that room unless
    ``data.truncation`` drops it, ``no-rows`` if none is left.
    """

    group = 1
    is_complete = True
    cut: Sequence[str] = ()

    def __init__(
        self, prompts: Iterable[Prompt], data: DataConfig, *, answer_tokens: int, generations: int
    ) -> None:
        self.dropped: list[str] = []
        self._kept: list[Prompt] = []
        self._answer_tokens, self._generations = answer_tokens, generations
        room = data.max_length - answer_tokens
        for prompt in prompts:
            if len(prompt.prompt_ids) <= room:
                self._kept.append(prompt)
            elif data.truncation == "error":
                raise self._no_room(prompt, data.max_length, "Raise data.max_length")
            else:
                self.dropped.append(prompt.row)
        if not self._kept:
            raise DataError(
                f"None of the {len(self.dropped)} rows is a prompt that leaves room for an answer.",
                remedy="Raise data.max_length, lower objective.max_completion_length or give more rows.",
                code="no-rows",
            )

    def _no_room(self, prompt: Prompt, limit: int, remedy: str) -> DataError:
        return DataError(
            f"{prompt.row} has a prompt of {len(prompt.prompt_ids)} tokens, which leaves no room for an answer of "
            f"{self._answer_tokens} within {limit}.",
            remedy=f"{remedy}, lower objective.max_completion_length, or set data.truncation to drop.",
            code="too-long",
        )

    @property
    def row_count(self) -> int:
        """The number of prompts that are kept."""
        return len(self)

    @property
    def documents(self) -> int:
        """The number of rows of the data that are kept, the same."""
        return len(self)

    @property
    def trained_tokens(self) -> int:
        """The most tokens that answers may have in an epoch."""
        return len(self) * self._generations * self._answer_tokens

    @property
    def tokens(self) -> int:
        """The most tokens that are read or written in an epoch."""
        return self.trained_tokens + sum(len(prompt.prompt_ids) for prompt in self) * self._generations

    def tokenise_next(self, *, to_the_end: bool = False) -> bool:  # noqa: ARG002 - as EncodedRows has it
        """Return False: all are tokenised."""
        return False

    def require_fit(self, longest: int, vocabulary: int) -> None:
        """Check that prompts and answers have at most ``longest`` tokens, and ids below ``vocabulary``.

        Raises DataError ``too-long`` or ``unknown-token``, naming the first row that fails.
        """
        for prompt in self:
            if len(prompt.prompt_ids) + self._answer_tokens > longest:
                raise self._no_room(prompt, longest, "Take a model that can look at more tokens")
            if (highest := max(prompt.prompt_ids)) >= vocabulary:
                raise DataError(
                    f"{prompt.row} has the token id {highest}; this model knows those below {vocabulary} only.",
                    remedy="Use the tokenizer that came with this model.",
                    code="unknown-token",
                )

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Prompt]: ...

    def __getitem__(self, index: int | slice) -> Prompt | Sequence[Prompt]:
        return self._kept[index]
