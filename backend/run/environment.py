"""What a run was trained on and with: the typed content of ``environment.json``.

The trainer writes it at each attempt; everything else reads it. A field that an older version did not write reads
as empty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class ComputePlan:
    """The way the numbers of a run are computed. Chosen once and kept, so that a resume gives the same bits.

    ``device`` is ``cpu`` or ``cuda``, in a process of several with its index; ``dtype`` is the precision of frozen
    weights; ``matmul_precision`` is what torch calls so. ``lanes`` micro-batches run side by side, each on
    ``threads`` threads of its own; results are added up in the order of the micro-batches, so the number of lanes at
    work changes the time and not one bit.
    """

    device: str
    dtype: str
    lanes: int
    threads: int
    matmul_precision: str

    @property
    def device_type(self) -> str:
        """The kind of device without its index."""
        return self.device.partition(":")[0]


@dataclass(frozen=True)
class Facts:
    """The fingerprints of all that a run trains from, which must stay the same over all of its attempts.

    ``data`` holds the SHA-256 of each source by path; ``model`` is ``model_fingerprint`` of the base and ``revision``
    the commit that a base of the Hub was taken from. ``chat_template`` is the SHA-256 of the template that rendered
    the rows. ``rendered_at`` is the time that the template prints where it prints the date, ISO 8601: that of the
    first attempt; empty where it prints none. ``adapter`` is the hash of an earlier adapter that is trained further.
    """

    data: dict[str, str]
    model: str
    revision: str = ""
    chat_template: str = ""
    rendered_at: str = ""
    adapter: str = ""

    @property
    def template_time(self) -> datetime | None:
        """The time that the run's chat template prints; None for the present one."""
        return datetime.fromisoformat(self.rendered_at) if self.rendered_at else None


@dataclass(frozen=True)
class Change:
    """A change of how a run is computed, from which ``step`` on the bits may be others; ``what`` says what differs.

    It is a resume on another kind of machine, or less computed at once since memory ran out.
    """

    attempt: int
    step: int
    what: str


@dataclass(frozen=True)
class RejectedRow:
    """A row that could not be read, and why."""

    place: str
    reason: str


@dataclass(frozen=True)
class RowsRead:
    """The counts of rows and tokens read. Tokens are counted once all rows are tokenised; None until then.

    ``train_rows`` are those of an epoch: pieces where texts are cut, and mixed-in rows too. ``documents`` are the
    rows of the training data that they come from; 0 in runs of older versions.
    """

    read_as: str = ""
    train_rows: int = 0
    documents: int = 0
    validation_rows: int = 0
    trained_questions: tuple[str, ...] = ()
    rejected_rows: tuple[RejectedRow, ...] = ()
    cut_rows: tuple[str, ...] = ()
    dropped_rows: tuple[str, ...] = ()
    tokens: int | None = None
    trained_tokens: int | None = None


@dataclass(frozen=True)
class Environment:
    """The environment of the latest attempt of a run; ``changes`` are those of all its attempts.

    ``processor`` is the kind of processor that computes, by name and instructions in use: with the plan and the
    versions it decides the bits. ``start_seconds`` is how long the trainer took from its imports to its first step;
    ``ready`` is when that was, UTC in ISO 8601. ``attempt`` is filled in when it is written. ``layers`` says whose
    code computes the layers, and with which kernels; empty for versions that knew only those of transformers.
    """

    attempt: int = 0
    python: str = ""
    platform: str = ""
    processor: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    plan: ComputePlan | None = None
    facts: Facts | None = None
    start_seconds: float = 0.0
    ready: str = ""
    data: RowsRead = RowsRead()
    changes: tuple[Change, ...] = ()
    layers: str = ""
