"""One answer of a model, and what may be asked of whatever answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from transformers import PreTrainedModel

from backend.errors import TunesmithError
from backend.inference.decoding import NewToken
from backend.inference.prompting import Prompt, PromptRenderer

MAX_ANSWERS = 64
"""Most answers to one prompt in one call."""


@dataclass(frozen=True)
class Answer:
    """One answer: its text, how it ended (``stop`` or ``length``), and its tokens, the end token included."""

    text: str
    finish: str
    tokens: tuple[NewToken, ...]


class Answerer(Protocol):
    """The part of ``Inferencer`` that this package uses: a Protocol, since ``Inferencer`` stands above it."""

    renderer: PromptRenderer

    @property
    def model(self) -> PreTrainedModel:
        """The loaded model."""

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter answers."""

    @property
    def identity(self) -> list[str]:
        """What answers, as texts that change with it."""

    def as_base(self) -> AbstractContextManager[None]:
        """Let the base answer meanwhile."""

    def render(self, prompt: Prompt) -> list[int]:
        """Return the token ids that the model continues from."""

    def answers(self, prompt: Prompt, **options: Any) -> list[Answer]:
        """Return answers with their tokens."""

    def infer_batch(self, prompts: Sequence[Prompt], **options: Any) -> list[str | TunesmithError]:
        """Return a text, or what went wrong, for each prompt."""


def answer_seed(seed: int, index: int) -> int:
    """The seed of answer ``index`` of several to one prompt; the first has the seed itself."""
    return (seed + index * 0x9E3779B97F4A7C15) % 2**63
