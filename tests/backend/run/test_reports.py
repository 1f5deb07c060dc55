"""The types of reports, outcomes and states: backend/run/reports.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.run.reports import (
    AttemptEnd,
    EvalReport,
    RunState,
    RunStatus,
    Sample,
    StepReport,
    same_answer,
)

STEP = StepReport(3, 10, 0.3, 1.25, 0.5, 1.25e-6, 100, 40, 2.0, 300, rows=("row 1",))
EVAL = EvalReport(3, 0.3, 1.5, 40, 4, 0.5, samples=(Sample("row 9", "Q?", "yes", " yes\n"),))


def test_speed_is_tokens_over_seconds_and_zero_without_time() -> None:
    assert STEP.tokens_per_second == 50.0
    assert replace(STEP, seconds=0.0).tokens_per_second == 0.0


def test_an_answer_matches_but_for_white_space() -> None:
    assert EVAL.samples[0].exact_match
    assert not Sample("row", "Q?", "yes", "Yes").exact_match


@pytest.mark.parametrize(
    ("said", "expected", "same"),
    [
        ("<think>\n\n</think>\n\nyes", "yes", True),
        ("<think>so</think>yes", "<think>thus</think> yes", True),
        ("yes", "yes", True),
        ("<think>yes", "yes", False),
        ("<think>yes</think>no", "yes", False),
    ],
)
def test_a_thinking_block_before_an_answer_is_no_part_of_it(said: str, expected: str, same: bool) -> None:
    assert same_answer(said, expected) == same


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (AttemptEnd("t", "killed", signal_number=9), "The trainer was killed from outside (SIGKILL)."),
        (AttemptEnd("t", "error", exit_code=2), "The trainer ended with an error (exit code 2)."),
        (AttemptEnd("t", "crashed", signal_number=99), "The trainer crashed (signal 99)."),
        (AttemptEnd("t", "from the future", exit_code=0), "The trainer ended (exit code 0)."),
    ],
)
def test_an_end_has_a_sentence(end: AttemptEnd, sentence: str) -> None:
    assert end.describe() == sentence


@pytest.mark.parametrize("status", list(RunStatus))
def test_a_run_is_live_while_a_process_holds_it(status: RunStatus) -> None:
    live = {RunStatus.STARTING, RunStatus.RUNNING, RunStatus.STOPPING}
    assert RunState(status, "", "", "").is_live is (status in live)
