"""What happened to a run, in plain words: from its state, its flight record and what the machine did.

``flight.jsonl`` has a line a step, written by the trainer: ``step``, ``loss``, ``grad_norm``, ``learning_rate``,
``rows`` (the ids of the rows in the batch) and ``memory_bytes``; numbers that JSON lacks stand as ``"nan"`` or
``"inf"``.
Control wing: imports F0 only.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from backend.errors import RunError
from backend.reports import RunState, RunStatus
from backend.run_dir import RunDir
from backend.utils.jsonl_utils import last_records

SHOWN_STEPS = 10
SPIKE_FACTOR = 3.0


@dataclass(frozen=True)
class FlightStep:
    """One step of the flight record. ``loss`` in nats per trained token; ``memory_bytes`` 0 when not known."""

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    rows: tuple[str, ...]
    memory_bytes: int


@dataclass(frozen=True)
class Explanation:
    """``headline`` in one sentence, ``findings`` and ``advice`` in several, the rows and steps they rest on."""

    run: str
    status: str
    reason: str
    headline: str
    findings: tuple[str, ...]
    advice: tuple[str, ...]
    rows: tuple[str, ...]
    last_steps: tuple[FlightStep, ...]


def explain(run: RunDir) -> Explanation:
    """What happened to a run, why as far as it shows, and what to do. Raises nothing that a run folder can cause."""
    state = run.state()
    steps = read_flight(run)
    suspect = _suspect(steps)
    findings = [*_process_findings(run), *_step_findings(steps, suspect), *_machine_findings(run)]
    return Explanation(
        run=run.id,
        status=str(state.status),
        reason=state.reason,
        headline=state.message,
        findings=tuple(findings),
        advice=tuple(_advice(state, suspect)),
        rows=suspect.rows if suspect else (),
        last_steps=tuple(steps[-SHOWN_STEPS:]),
    )


def read_flight(run: RunDir) -> list[FlightStep]:
    """The steps in the flight record, oldest first; lines that are none are left out."""
    return [step for step in map(_flight_step, run.flight().records) if step]


def _flight_step(record: dict[str, object]) -> FlightStep | None:
    step, rows, memory = record.get("step"), record.get("rows"), record.get("memory_bytes")
    if not isinstance(step, int):
        return None
    return FlightStep(
        step=step,
        loss=_number(record.get("loss")),
        grad_norm=_number(record.get("grad_norm")),
        learning_rate=_number(record.get("learning_rate")),
        rows=tuple(str(row) for row in rows) if isinstance(rows, list) else (),
        memory_bytes=memory if isinstance(memory, int) else 0,
    )


def _number(value: object) -> float:
    if not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan


def _suspect(steps: Sequence[FlightStep]) -> FlightStep | None:
    """The first step that was not finite, else the last one far above the usual loss; None when all is quiet."""
    odd = next(
        (step for step in steps if not (math.isfinite(step.loss) and math.isfinite(step.grad_norm))), None
    )
    if odd or len(steps) < 5:
        return odd
    usual = statistics.median(step.loss for step in steps)
    spikes = [step for step in steps[-SHOWN_STEPS:] if step.loss > SPIKE_FACTOR * max(usual, 1e-6)]
    return spikes[-1] if spikes else None


def _process_findings(run: RunDir) -> list[str]:
    try:
        attempt = run.latest_attempt()
    except RunError as error:
        return [f"The record of the latest attempt is damaged ({error.message})."]
    if attempt is None:
        return []
    how = attempt.end.describe() if attempt.end else "Its end was not recorded."
    newest = run.newest_checkpoint_step()
    kept = f"The newest checkpoint is of step {newest}." if newest else "There is no checkpoint yet."
    return [f"Attempt {attempt.number} began on {attempt.began}. {how}", kept]


def _step_findings(steps: Sequence[FlightStep], suspect: FlightStep | None) -> list[str]:
    if not steps:
        return ["No step was recorded."]
    last = steps[-1]
    found = [
        f"The last recorded step is {last.step}: loss {last.loss:.4g}, gradient norm {last.grad_norm:.4g}."
    ]
    if suspect:
        usual = statistics.median(step.loss for step in steps)
        found.append(
            f"Step {suspect.step} stands out: loss {suspect.loss:.4g} (usually {usual:.4g}), "
            f"gradient norm {suspect.grad_norm:.4g}, learning rate {suspect.learning_rate:.3g}."
        )
        found.append(f"Its rows: {', '.join(suspect.rows) or 'not recorded'}.")
    peak = max(step.memory_bytes for step in steps)
    if peak:
        found.append(f"The trainer used up to {peak / 2**20:,.0f} MiB of memory.")
    return found


def _machine_findings(run: RunDir) -> list[str]:
    latest = next(last_records(run.system_file), None)
    if latest is None:
        return []
    used, total, free = (
        latest.get(key) for key in ("memory_used_bytes", "memory_total_bytes", "disk_free_bytes")
    )
    if not (isinstance(used, int) and isinstance(total, int) and isinstance(free, int) and total):
        return []
    return [
        f"The machine last had {used / total:.0%} of its memory in use and {free / 2**30:,.1f} GiB of disk free."
    ]


_ADVICE = {
    "non-finite-loss": "Lower training.learning_rate, and look at the rows of that step.",
    "non-finite-gradient": "Lower training.learning_rate or training.max_grad_norm, and look at those rows.",
    "out-of-memory": "Lower training.per_device_train_batch_size or data.max_length, or close other programs.",
    "disk-full": "Make room on the disk of the run, or lower training.save_total_limit.",
    "disk-low": "Make room on the disk of the run, or lower training.save_total_limit.",
    "crashed": "The stack at the crash is in train.log; a crash in the same place twice is a fault worth reporting.",
    "crash-loop": "Something kills the trainer before its next checkpoint: lower training.save_steps.",
    "damaged": "The damaged file is set aside, never deleted, when the run goes on.",
}


def _advice(state: RunState, suspect: FlightStep | None) -> list[str]:
    advice = [_ADVICE[state.reason]] if state.reason in _ADVICE else []
    if suspect and suspect.rows and state.status is RunStatus.FAILED:
        advice.append(f"Look at the rows of step {suspect.step} before going on: {', '.join(suspect.rows)}.")
    return [*advice, state.next_action]
