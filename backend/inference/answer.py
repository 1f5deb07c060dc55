"""One answer of a model, and the interface of an object that gives answers."""

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
    """One answer: its text, its finish reason (``stop`` or ``length``), and its tokens, the stop token included."""

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
        """True if an adapter is in use."""

    @property
    def identity(self) -> list[str]:
        """Texts that identify the model in use: base, adapter, strength."""

    def as_base(self) -> AbstractContextManager[None]:
        """Use the base without its adapter inside the block."""

    def render(self, prompt: Prompt) -> list[int]:
        """Return the token ids that the model continues from."""

    def answers(self, prompt: Prompt, **options: Any) -> list[Answer]:
        """Return answers with their tokens."""

    def infer_batch(self, prompts: Sequence[Prompt], **options: Any) -> list[str | TunesmithError]:
        """Return, for each prompt, the answer or the error."""


def answer_seed(seed: int, index: int) -> int:
    """Return the seed of answer ``index`` to a prompt; answer 0 has ``seed`` itself."""
    return (seed + index * 0x9E3779B97F4A7C15) % 2**63
