"""What the terminal says about a run: its state, how it ended, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from backend.commands.options import shown
from backend.commands.phrases import flags, what_to_do, with_flags
from backend.manager.explain import Explanation, way_back
from backend.run.folder import RunDir
from backend.run.reports import Outcome, RunState, RunStatus


def advice_lines(run: RunDir, explanation: Explanation) -> list[str]:
    """Return all that an explanation says to do, with the commands, a sentence a line."""
    lines = [with_flags(advice) for advice in explanation.advice]
    if explanation.next_step:
        lines.append(what_to_do("", explanation.next_step, shown(run)))
    if explanation.again:
        words = ["tunesmith", "train", str(run.config), *flags(explanation.again)]
        lines.append(f"Start again with: {shlex.join(words)}")
    if explanation.branch:
        branch = shlex.join(flags(explanation.branch))
        lines.append(f"Branch off with: tunesmith runs resume {shown(run)} {branch}")
    return lines


def explanation_record(run: RunDir, explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as plain values, with all that it says to do as ``advice``."""
    told = {"advice": advice_lines(run, explanation), "branch": flags(explanation.branch)}
    return {**asdict(explanation), **told}


def outcome_record(run: RunDir, outcome: Outcome) -> dict[str, Any]:
    """Return how an attempt ended as plain values, with what to do as ``remedy`` unless it finished."""
    if outcome.status is RunStatus.FINISHED:
        return vars(outcome)
    state = run.state()
    return {**vars(outcome), "remedy": what_to_do(state.remedy, state.next_step, shown(run))}


def next_action(run: RunDir, state: RunState) -> str:
    """Return what to do next with a run: where it rests and has done harm, that and the way back."""
    harm = way_back(run, state)
    if harm is None:
        return what_to_do(state.remedy, state.next_step, shown(run))
    return " ".join([*harm.findings, *advice_lines(run, harm)])


def state_record(run: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a run's state with ``next_action`` in place of the remedy and the next step."""
    record = dict(values)
    action = what_to_do(record.pop("remedy"), record.pop("next_step"), run)
    return {**record, "status": str(record["status"]), "next_action": action}
