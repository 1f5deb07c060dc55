"""The summary of a run: one line of a listing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from backend.errors import NextStep, RunError
from backend.run.folder import RunDir
from backend.run.metrics import EVAL_LOSS, TRAIN_LOSS
from backend.run.records import read_rare_record
from backend.run.reports import RunStatus
from backend.run.root import created
from backend.utils.jsonl_utils import newest_with
from backend.utils.record_utils import record_from_json


@dataclass(frozen=True)
class Labels:
    """The labels that a person gives a run; ``name`` is shown in place of the id, which never changes."""

    name: str = ""
    tags: tuple[str, ...] = ()
    note: str = ""
    archived: bool = False


UNLABELLED = Labels()


@dataclass(frozen=True)
class RunSummary:
    """One line of a listing.

    ``loss`` and ``eval_loss`` are the latest, in nats per trained token, or those of a preference method. Those of
    different ``objective`` do not compare.
    """

    id: str
    path: Path
    status: RunStatus
    reason: str
    message: str
    remedy: str
    next_step: NextStep | None
    created: str
    model: str
    method: str
    step: int
    total_steps: int
    loss: float | None
    eval_loss: float | None
    attempt: int = 0
    labels: Labels = UNLABELLED
    damage: str = ""
    objective: str = "sft"

    @property
    def title(self) -> str:
        """The name that the person gave, or the id."""
        return self.labels.name or self.id


def summarise(run: RunDir) -> RunSummary:
    """The line of one run. Raises nothing: a damaged run has a line that says so."""
    state, records = run.look()
    trained, evaluated = newest_with(run.at(RunDir.metrics_file), (TRAIN_LOSS, EVAL_LOSS))
    latest = trained or evaluated
    return RunSummary(
        id=run.id,
        path=run.path,
        status=state.status,
        reason=state.reason,
        message=state.message,
        remedy=state.remedy,
        next_step=state.next_step,
        created=created(run.path).isoformat(),
        model=peek(records.config, "model", "model_name_or_path"),
        method=peek(records.config, "tuning", "method"),
        step=_whole(latest.get("step")),
        total_steps=_whole(latest.get("total_steps")),
        loss=_number(trained.get(TRAIN_LOSS)),
        eval_loss=_number(evaluated.get(EVAL_LOSS)),
        attempt=state.attempt,
        labels=read_labels(run),
        damage=state.damage,
        objective=peek(records.config, "objective", "method") or "sft",
    )


def read_labels(run: RunDir) -> Labels:
    """Return the labels of a run; empty ones if the file is missing or damaged, since no run depends on it."""
    try:
        labels = read_rare_record(run.at(RunDir.labels_file), lambda value: record_from_json(Labels, value))
    except RunError:
        labels = None
    return labels or UNLABELLED


def peek(config_yaml: str, section: str, key: str) -> str:
    """One plain value of a configuration that we wrote, without parsing the rest; empty when it is not there.

    A listing of ten thousand runs has no time for a YAML parser.
    """
    found = _value_of(section, key).search(f"\n{config_yaml}")
    return found[1].strip("'\"") if found else ""


@cache
def _value_of(section: str, key: str) -> re.Pattern[str]:
    lines_of_the_section = r"(?:[ #].*\n|\n)*?"
    return re.compile(rf"\n{section}:\n{lines_of_the_section} +{key}: *(.+?)(?: +#.*)?$", re.MULTILINE)


def _number(value: object) -> float | None:
    """A figure of a report; None for one that was no number, which reports write as text."""
    return float(value) if isinstance(value, int | float) else None


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def what_goes(run: RunDir) -> list[str]:
    """The parts of a run that deleting it takes away, in words."""
    checkpoints = len(run.checkpoint_steps())
    parts = {
        "configuration": run.config.exists(),
        "curves": run.metrics_file.exists(),
        "samples": run.samples_file.exists(),
        f"{checkpoints} checkpoint{'s' * (checkpoints != 1)}": bool(checkpoints),
        "trained adapter": run.adapter.is_dir(),
        "trained model": run.model.is_dir(),
    }
    return [name for name, there in parts.items() if there] or ["damaged files"]
