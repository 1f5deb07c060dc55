"""The words that both wings use: what a run reports, how it ended, and what state it is in.

Floor F0: plain frozen dataclasses and enums, no imports of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class RunStatus(StrEnum):
    """Where a run stands. Always derived from its folder, never stored (see docs/lifecycle.md)."""

    CREATED = "created"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    FINISHED = "finished"


@dataclass(frozen=True)
class StepReport:
    """One optimizer step, as the training loop reports it.

    ``loss`` is the mean cross-entropy in nats over the ``trained_tokens`` of the whole step; ``grad_norm`` is
    the global L2 norm before clipping; ``tokens`` counts every token of the step's examples, shared or not.
    """

    step: int
    total_steps: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    trained_tokens: int
    seconds: float
    tokens_seen: int
    rows: tuple[str, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """Tokens of this step per second of wall-clock time; 0 when no time passed."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Sample:
    """One row of the fixed panel: the prompt, the wished-for answer and what the model says."""

    row: str
    prompt: str
    expected: str
    generated: str

    @property
    def exact_match(self) -> bool:
        """Whether the answer equals the expected one, surrounding white space aside."""
        return self.generated.strip() == self.expected.strip()


@dataclass(frozen=True)
class EvalReport:
    """The held-out rows at one step: mean loss in nats per trained token, and scores where they make sense.

    ``exact_match`` is a share in [0, 1], or None when answers are too long for it to mean anything.
    """

    step: int
    epoch: float
    loss: float
    trained_tokens: int
    rows: int
    seconds: float
    exact_match: float | None = None
    scored_rows: int = 0
    samples: tuple[Sample, ...] = field(default=())


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a run ended: the trainer's last act.

    ``status`` is one of finished, stopped and failed; ``code`` is a stable lower-case reason such as
    ``completed``, ``stop-requested``, ``sigterm``, ``non-finite-loss``; ``remedy`` says what to do next.
    """

    status: RunStatus
    code: str
    message: str
    remedy: str = ""
    step: int = 0
    result: str = ""
