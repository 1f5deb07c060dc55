"""What the engine is asked for, and the news it gives of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from backend.errors import TunesmithError
from backend.inference.answer_text import AnswerText
from backend.inference.decoding import NewToken, Sampling
from backend.inference.model_source import ModelSource
from backend.inference.sampling import Matcher

Variant: TypeAlias = tuple[ModelSource, float]
"""Which weights answer: a model, and the strength of its adapter."""


@dataclass(frozen=True)
class Piece:
    """What one step added to answer ``choice``: text, its token, and ``finish`` when it ended there."""

    choice: int
    text: str
    token: NewToken
    finish: str


@dataclass(frozen=True)
class Failure:
    """The end of a request that could not be answered."""

    error: TunesmithError | None


class Listener(Protocol):
    """Who is told what comes; called from the engine's thread."""

    def deliver(self, news: Sequence[Piece | Failure]) -> None:
        """Take note, and return at once."""


@dataclass(eq=False)
class Job:
    """A prompt and as many answers as there are ``samplings``, numbered from ``first`` on.

    Set ``cancelled`` to end it within one token. ``deadline`` is in seconds of the monotonic clock; ``begun`` once it
    has left the queue.
    """

    variant: Variant
    prompt: Sequence[int]
    samplings: Sequence[Sampling]
    matchers: Sequence[Matcher | None]
    stop: Sequence[str]
    listener: Listener
    first: int = 0
    deadline: float = float("inf")
    cancelled: bool = False
    begun: bool = False
    texts: dict[int, AnswerText] = field(default_factory=dict)
