"""The input and output of the engine: jobs go in, and events come back while they are worked on."""

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
"""The weights that answer: a model, and the strength of its adapter."""


@dataclass(frozen=True)
class TokenDelta:
    """One new token of answer ``choice``, the text it adds, and ``finish`` (stop or length) when the answer ended."""

    choice: int
    text: str
    token: NewToken
    finish: str


@dataclass(frozen=True)
class Failure:
    """The end of a job that failed; ``error`` is None for a fault of ours, which only the log tells."""

    error: TunesmithError | None


class Listener(Protocol):
    """Receives the events of a job, in the engine's thread."""

    def deliver(self, events: Sequence[TokenDelta | Failure]) -> None:
        """Take ``events``, and return at once: every other job waits meanwhile."""


@dataclass(eq=False)
class Job:
    """A prompt and its answers, one for each of ``samplings``, numbered from ``first`` on.

    Set ``cancelled`` to end it within one token. ``deadline`` is in seconds of the monotonic clock; ``begun`` is set
    when the job leaves the queue. Jobs are equal only to themselves, so that they can be keys.
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
