"""Explain what happened to a run, from its state, its flight record and the samples of the machine.

``flight.jsonl`` has a line per step, written by the trainer: ``step``, ``loss``, ``grad_norm``, ``learning_rate``,
``rows`` (the ids of the rows in the batch) and ``memory_bytes``; ``"nan"`` and ``"inf"`` stand for numbers that JSON
lacks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.errors import NextStep, RunError
from backend.manager.preference_signs import preference_signs
from backend.run.folder import RunDir
from backend.run.metrics import LEARNING_RATE, best_step, held_out_losses, number
from backend.run.reports import RunState, RunStatus
from backend.utils.jsonl_utils import last_records

SHOWN_STEPS = 10
SHOWN_FINDINGS = 3
SPIKE_FACTOR = 3.0
LOWER_RATE, DIVERGED_RATE = 0.5, 0.1
"""What to multiply the learning rate by: after a step that stands out, and where the run has lost its way."""


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
class HeldOutLoss:
    """The held-out loss of the model before training, of the best checkpoint there is, and of the latest.

    For a finished run ``latest`` is that of its result. Nats a trained token; infinite where it was no number.
    """

    untrained: float
    best: float
    best_step: int
    latest: float
    peak_rate: float

    @property
    def is_worse_than_untrained(self) -> bool:
        """True if training has made the model worse so far."""
        return self.latest > self.untrained

    @property
    def has_good_checkpoint(self) -> bool:
        """True if there is a checkpoint that is better than the untrained model."""
        return self.best < self.untrained


@dataclass(frozen=True)
class Explanation:
    """``headline`` in one sentence, ``findings`` and ``advice`` in several, the rows and steps they rest on.

    ``next_step`` comes after the advice. ``branch`` has the settings of a branch where one helps, ``again`` those of
    a new run with this configuration where only that does.
    ``did_harm``: the result, or the latest model, is worse than the untrained one; that comes first in ``findings``,
    what is known against the data next, and the way back last in ``advice``.
    """

    run: str
    status: str
    reason: str
    headline: str
    findings: tuple[str, ...]
    advice: tuple[str, ...]
    rows: tuple[str, ...]
    last_steps: tuple[FlightStep, ...]
    next_step: NextStep | None = None
    branch: Mapping[str, str] = field(default_factory=dict)
    again: Mapping[str, str] = field(default_factory=dict)
    did_harm: bool = False


def explain(run: RunDir) -> Explanation:
    """Return what happened to a run, the likely cause and what to do. No content of a run folder makes it raise."""
    state = run.state()
    steps = read_flight(run)
    suspect, held_out = _suspect(steps), _held_out(run)
    findings = [
        *_held_out_findings(held_out, state),
        *_data_findings(run, held_out),
        *_process_findings(run),
        *_step_findings(steps, suspect),
        *preference_signs(run.metrics().records),
        *_machine_findings(run),
    ]
    return Explanation(
        run=run.id,
        status=str(state.status),
        reason=state.reason,
        headline=state.message,
        findings=tuple(findings),
        advice=tuple(_advice(state, suspect, held_out)),
        rows=suspect.rows if suspect else (),
        last_steps=tuple(steps[-SHOWN_STEPS:]),
        next_step=_next_step(state, suspect, held_out),
        branch=_branch(suspect, held_out),
        again=_again(held_out),
        did_harm=_did_harm(held_out),
    )


def way_back(run: RunDir, state: RunState) -> Explanation | None:
    """Return the harm that a run at rest has done and the way back; None where it has done none, or goes on."""
    moving = state.is_live or state.status is RunStatus.QUEUED
    held_out = None if moving else _held_out(run)
    if held_out is None or not held_out.is_worse_than_untrained:
        return None
    return Explanation(
        run=run.id,
        status=str(state.status),
        reason=state.reason,
        headline=state.message,
        findings=(*_held_out_findings(held_out, state), *_data_findings(run, held_out)),
        advice=(_way_back(held_out),),
        rows=(),
        last_steps=(),
        branch=_branch(None, held_out),
        again=_again(held_out),
        did_harm=True,
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
        loss=number(record.get("loss")),
        grad_norm=number(record.get("grad_norm")),
        learning_rate=number(record.get("learning_rate")),
        rows=tuple(str(row) for row in rows) if isinstance(rows, list) else (),
        memory_bytes=memory if isinstance(memory, int) else 0,
    )


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


def _held_out(run: RunDir) -> HeldOutLoss | None:
    """The held-out loss over the run; None where the untrained model, or no other, was evaluated."""
    records = run.metrics().records
    losses = held_out_losses(records)
    if 0 not in losses or len(losses) < 2:
        return None
    best = best_step({step: loss for step, loss in losses.items() if run.checkpoint(step).is_dir()}) or 0
    rates = [rate for rate in (number(each.get(LEARNING_RATE)) for each in records) if rate > 0]
    latest = losses.get(_result_step(run), losses[max(losses)])
    return HeldOutLoss(losses[0], losses[best], best, latest, max(rates, default=0.0))


def _result_step(run: RunDir) -> int:
    """The step whose model a finished run gave; -1 where there is none."""
    try:
        outcome = run.read_outcome()
    except RunError:
        return -1
    return outcome.step if outcome and outcome.status is RunStatus.FINISHED else -1


def _held_out_findings(held_out: HeldOutLoss | None, state: RunState) -> list[str]:
    if held_out is None or not held_out.is_worse_than_untrained:
        return []
    what = "The result" if state.status is RunStatus.FINISHED else "The latest model"
    best = f" The best checkpoint is of step {held_out.best_step}: {held_out.best:.4g}."
    finding = (
        f"{what} is worse than the untrained model: its held-out loss is {held_out.latest:.4g}, and was "
        f"{held_out.untrained:.4g} before training."
    )
    return [finding + best * held_out.has_good_checkpoint]


def _data_findings(run: RunDir, held_out: HeldOutLoss | None) -> list[str]:
    """Return the findings of the data check for a run that did harm; they come before advice on settings."""
    if held_out is None or not held_out.is_worse_than_untrained:
        return []
    try:
        check = run.read_data_check()
    except RunError as error:
        return [f"What the data check found is damaged ({error.message})."]
    found = [each for each in check.findings if each.level != "info"]
    told = [
        f"The data check had found: {each.title} ({each.check}, {each.count:,} rows, {', '.join(each.places)})."
        + " That was accepted." * (each.check in check.accepted)
        for each in found[:SHOWN_FINDINGS]
    ]
    more = len(found) - len(told)
    return [*told, *([f"It had {more} more findings."] if more > 0 else [])]


def _did_harm(held_out: HeldOutLoss | None) -> bool:
    return held_out is not None and held_out.is_worse_than_untrained


def _branch(suspect: FlightStep | None, held_out: HeldOutLoss | None) -> dict[str, str]:
    """The settings of a branch: from the best checkpoint where the latest is worse than that."""
    better = held_out is not None and held_out.has_good_checkpoint and held_out.best < held_out.latest
    start = {"from_step": str(held_out.best_step)} if held_out and better else {}
    if _did_harm(held_out):
        return {**start, "lower_lr": f"{DIVERGED_RATE:g}"} if start else {}
    if suspect is None or not suspect.rows:
        return {}
    return {**start, "lower_lr": f"{LOWER_RATE:g}", "skip_rows": ",".join(suspect.rows[:4])}


def _again(held_out: HeldOutLoss | None) -> dict[str, str]:
    """The settings of a new run, where no checkpoint is worth a branch."""
    if held_out is None or not held_out.is_worse_than_untrained or held_out.has_good_checkpoint:
        return {}
    rate = f"{DIVERGED_RATE * held_out.peak_rate:.3g}" if held_out.peak_rate else "…"
    return {"training.learning_rate": rate}


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
    "out-of-memory": "Close other programs, or compute less at once: a smaller `training.micro_batch_tokens` "
    "branches off from the newest checkpoint.",
    "disk-full": "Make room on the disk of the run, or lower training.save_total_limit.",
    "disk-low": "Make room on the disk of the run, or lower training.save_total_limit.",
    "crashed": "The stack at the crash is in train.log; a crash in the same place twice is a fault worth reporting.",
    "crash-loop": "Something kills the trainer before its next checkpoint: lower training.save_steps.",
    "damaged": "The damaged file is set aside, never deleted, when the run goes on.",
}


def _advice(state: RunState, suspect: FlightStep | None, held_out: HeldOutLoss | None) -> list[str]:
    advice = [_ADVICE[state.reason]] if state.reason in _ADVICE else []
    if held_out and held_out.is_worse_than_untrained:
        return [*advice, _way_back(held_out)]
    if suspect and suspect.rows and state.status is RunStatus.FAILED:
        advice.append(f"Look at the rows of step {suspect.step} before going on: {', '.join(suspect.rows)}.")
    return [*advice, state.remedy] if state.remedy and not _must_change(state, suspect) else advice


def _must_change(state: RunState, suspect: FlightStep | None) -> bool:
    """Return whether going on without a change would fail again at the same step."""
    return state.reason.startswith("non-finite") and suspect is not None


def _next_step(state: RunState, suspect: FlightStep | None, held_out: HeldOutLoss | None) -> NextStep | None:
    explained = state.next_step is NextStep.EXPLAIN or _must_change(state, suspect)
    return None if explained or _did_harm(held_out) else state.next_step


def _way_back(held_out: HeldOutLoss) -> str:
    """Return the advice for a run that did harm, for which going on from the latest checkpoint is no use."""
    if held_out.has_good_checkpoint:
        return (
            f"Do not go on from its latest step: branch from step {held_out.best_step}, where the held-out loss was "
            "lowest, with a lower learning rate."
        )
    return (
        "None of its checkpoints is better than the untrained model: start again with a lower learning rate."
    )
