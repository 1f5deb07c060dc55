"""The types of what a run reports, how it ended, and the state it is in."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from backend.errors import NextStep
from backend.utils.process_utils import ProcessIdentity

DEFAULT_DEVICE = "default"
KILLED = "killed"
"""The reason of a request that does not wait for a checkpoint."""


class RunStatus(StrEnum):
    """The status of a run. Always derived from its folder, never stored (see docs/lifecycle.md)."""

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
class Rollout:
    """An answer that a step sampled, and what it was worth: each reward, their weighted sum, and the advantage.

    A reward that says nothing of the answer is left out of ``rewards``; ``reward`` is None if none does.
    ``is_truncated``: the answer reached the longest allowed.
    """

    row: str
    prompt: str
    completion: str
    reward: float | None
    rewards: dict[str, float]
    advantage: float
    tokens: int
    is_truncated: bool


@dataclass(frozen=True)
class StepReport:
    """One optimizer step, as the training loop reports it.

    ``loss`` is the mean cross-entropy in nats over the ``trained_tokens`` of the whole step, or that of a preference
    method over its pairs or answers; ``grad_norm`` is the global L2 norm before clipping; ``tokens`` counts every
    token of the step's examples, shared or not, and of sampled answers all. ``measured``: what else the method
    measures, by its name in TRL. ``samples``: some of the answers that were sampled.
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
    measured: Mapping[str, float] = field(default_factory=dict)
    samples: tuple[Rollout, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """Tokens of this step per second of wall-clock time; 0 when no time passed."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


def same_answer(said: str, expected: str) -> bool:
    """Return whether two answers are equal, apart from surrounding white space and a leading thinking block."""
    one, other = (text.rpartition("</think>")[2].strip() for text in (said, expected))
    return one == other


@dataclass(frozen=True)
class Sample:
    """One row of the fixed panel: the prompt, the wished-for answer and what the model says."""

    row: str
    prompt: str
    expected: str
    generated: str

    @property
    def exact_match(self) -> bool:
        """True if the answer equals the expected one, see ``same_answer``."""
        return same_answer(self.generated, self.expected)


@dataclass(frozen=True)
class EvalReport:
    """The held-out rows at one step: mean loss in nats per trained token, and scores where they make sense.

    ``loss`` is None where rows have no answers.

    ``exact_match`` is a share in [0, 1], or None when answers are too long for it to mean anything. ``measured``:
    what else the method measures, by its name in TRL.
    """

    step: int
    epoch: float
    loss: float | None
    trained_tokens: int
    rows: int
    seconds: float
    exact_match: float | None = None
    scored_rows: int = 0
    samples: tuple[Sample, ...] = field(default=())
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """The current activity of the trainer, for display: a phase in words, and a report if there is one.

    ``note`` is a sentence to be shown beside it, such as that a resume runs on another kind of machine.
    """

    phase: str
    report: StepReport | EvalReport | None = None
    note: str = ""


Watcher = Callable[[Progress], None]


@dataclass(frozen=True)
class Outcome:
    """The outcome of an attempt, written by the trainer as its last act.

    ``status`` is one of finished, stopped and failed; ``code`` is a stable lower-case reason such as
    ``completed``, ``stop-requested``, ``sigterm``, ``non-finite-loss``; ``remedy`` says what to do next;
    ``attempt`` is the attempt it belongs to, filled in when it is written.
    """

    status: RunStatus
    code: str
    message: str
    remedy: str = ""
    step: int = 0
    result: str = ""
    attempt: int = 0


_END_SENTENCES = {
    "exited": "The trainer ended",
    "no-outcome": "The trainer left without saying how it ended",
    "error": "The trainer ended with an error",
    "crashed": "The trainer crashed",
    "killed": "The trainer was killed from outside",
    "ended-at-once": "The trainer was ended at once, as asked",
    "stopped": "The trainer was stopped before it had begun to train",
    "stop-forced": "The trainer did not stop in time and was killed",
    "terminated": "The trainer was told to end before it could save",
    "out-of-memory": "The machine ran out of memory and killed the trainer",
    "disk-full": "The disk was full",
    "crash-loop": "The trainer kept dying before it reached a new checkpoint",
}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True)
class AttemptEnd:
    """The end of an attempt's process: ``exit_code`` or ``signal_number``, never both.

    ``reason`` is a stable word for the evidence: ``exited``, ``no-outcome``, ``error``, ``crashed``, ``killed``,
    ``terminated``, ``stopped``, ``stop-forced``, ``ended-at-once``, ``crash-loop``, ``out-of-memory``, ``disk-full``.
    ``ended`` is UTC in ISO 8601. ``detail`` is a sentence with what else was seen, such as the bytes left on a full
    disk.
    """

    ended: str
    reason: str
    exit_code: int | None = None
    signal_number: int | None = None
    detail: str = ""

    def describe(self) -> str:
        """One sentence for a person, naming the signal or the exit code."""
        how = (
            f"exit code {self.exit_code}" if self.signal_number is None else _signal_name(self.signal_number)
        )
        return f"{_END_SENTENCES.get(self.reason, 'The trainer ended')} ({how}). {self.detail}".strip()


@dataclass(frozen=True)
class Attempt:
    """One try at a run, from its start to the end of its process. ``began`` is UTC in ISO 8601.

    ``device`` is the queue's name for what it runs on. ``token`` stands in the environment of every process of
    the attempt, so that they can be told from strangers. ``folder`` is the mark of the run folder that it began in
    (``RunFiles.mark``): in a copy of that folder the attempt is somebody else's.
    """

    number: int
    began: str
    command: tuple[str, ...]
    token: str = ""
    process: ProcessIdentity | None = None
    supervisor: ProcessIdentity | None = None
    device: str = DEFAULT_DEVICE
    end: AttemptEnd | None = None
    folder: str = ""

    @property
    def is_own_process(self) -> bool:
        """True if it trains inside a person's own command, script or notebook, which is never killed."""
        return self.supervisor is None and not self.token


@dataclass(frozen=True)
class QueueTicket:
    """A place in the queue: higher ``priority`` first, then lower ``position``; ``hold`` keeps it waiting.

    It counts only while ``after_attempt`` is the run's latest attempt (0: none yet), so starting spends it.
    """

    queued: str
    after_attempt: int
    position: float
    priority: int = 0
    device: str = DEFAULT_DEVICE
    hold: bool = False
    note: str = ""


@dataclass(frozen=True)
class RunState:
    """The state of a run: ``reason`` is a stable code, ``message`` a sentence, ``remedy`` what to do.

    ``next_step`` comes after the remedy, or in its place where that is empty. ``attempt`` is the number of
    the latest attempt, 0 when there was none. ``damage`` says what is wrong with the folder, empty when nothing is.
    """

    status: RunStatus
    reason: str
    message: str
    remedy: str = ""
    next_step: NextStep | None = None
    attempt: int = 0
    damage: str = ""

    @property
    def is_live(self) -> bool:
        """True if a process holds the run right now."""
        return self.status in {RunStatus.STARTING, RunStatus.RUNNING, RunStatus.STOPPING}


@dataclass(frozen=True)
class DataFinding:
    """One thing that the data check found in a run's rows.

    ``level`` is block, warn or info, ``count`` how many rows, ``places`` the first of them, ``harm`` what it does
    to a model.
    """

    check: str
    title: str
    level: str
    count: int
    harm: str
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataCheck:
    """The findings about a run's rows before training; ``accepted``: the checks whose STOP was overridden."""

    findings: tuple[DataFinding, ...]
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeldOutScores:
    """The scores of ``tunesmith evaluate`` on ``rows`` held-out rows: shares of exact answers, in [0, 1].

    ``step`` is that of the outcome whose result was asked. Of ``pairs`` pairs of answers, ``base_prefers`` and
    ``tuned_prefers`` are the shares whose better answer is the likelier one, and ``gained`` that whose better answer
    gained more by training than the worse one.
    """

    rows: int
    unanswered: int
    step: int
    base: float
    tuned: float
    pairs: int = 0
    base_prefers: float = 0.0
    tuned_prefers: float = 0.0
    gained: float = 0.0


BASE = "base"
"""The name of the base model in an evaluation."""


@dataclass(frozen=True)
class MetricScore:
    """What one model scored in one metric of an evaluation: ``rows`` that it was decided for.

    ``passed`` is the share of rows that passed, with its 95 % interval, and ``mean`` the mean score, all in [0, 1].
    """

    metric: str
    model: str
    rows: int
    passed: float
    low: float
    high: float
    mean: float


@dataclass(frozen=True)
class MetricVerdict:
    """How the scores of the tuned model differ from those of ``against`` in one metric.

    ``difference`` is the mean over ``rows`` rows with its 95 % interval; ``p`` is corrected for all comparisons of
    the evaluation; ``verdict`` is ``better``, ``no difference seen`` or ``worse``. ``gained`` and ``lost``
    count rows.
    """

    metric: str
    against: str
    rows: int
    difference: float
    low: float
    high: float
    p: float
    verdict: str
    gained: int
    lost: int


@dataclass(frozen=True)
class Evaluation:
    """What ``tunesmith evaluate`` found of the result at ``step``, on the rows or the spec that ``source`` names.

    ``chance`` is what always giving the commonest expected answer would score; None without expected answers.
    ``forgetting`` is how the probability of right answers to general questions differs from that of the base.
    """

    step: int
    source: str
    rows: int
    models: tuple[str, ...]
    scores: tuple[MetricScore, ...]
    verdicts: tuple[MetricVerdict, ...]
    chance: float | None = None
    forgetting: MetricVerdict | None = None

    def worse_than(self, model: str) -> tuple[MetricVerdict, ...]:
        """Return the metrics in which the result is worse than ``model``."""
        return tuple(each for each in self.verdicts if (each.against, each.verdict) == (model, "worse"))


@dataclass(frozen=True)
class Evaluations:
    """The evaluations of a run's result, the newest of each source."""

    found: tuple[Evaluation, ...] = ()

    def of_step(self, step: int) -> tuple[Evaluation, ...]:
        """Return those of the result of a step."""
        return tuple(each for each in self.found if each.step == step)
