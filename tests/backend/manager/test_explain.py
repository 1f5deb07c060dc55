"""What happened to a run, in plain words: backend/manager/explain.py."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import pytest

from backend.errors import NextStep
from backend.manager.explain import explain, read_flight, way_back
from backend.run.folder import RunDir
from backend.run.reports import DataCheck, DataFinding, Outcome, RunStatus
from backend.utils.jsonl_utils import JsonlWriter
from tests.runs import do_harm


def fly(run: RunDir, *losses: float, norm: float = 1.0) -> None:
    with run.flight_writer() as writer:
        for step, loss in enumerate(losses, start=1):
            writer.append(
                {
                    "step": step, "loss": loss, "grad_norm": norm, "learning_rate": 1e-3,
                    "rows": [f"food.jsonl:{step}"], "memory_bytes": 512 * 2**20,
                }
            )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "next_step"),
    [("internal-error", None), ("non-finite-loss", None), ("out-of-memory", "compute-less")],
)
def test_what_comes_next_after_a_failure(code: str, next_step: str | None, run: RunDir) -> None:
    fail(run, code)
    assert explain(run).next_step == next_step


def test_a_new_run_is_started(run: RunDir) -> None:
    assert explain(run).next_step is NextStep.START


def fail(run: RunDir, code: str) -> None:
    run.begin_attempt(("a",), pid=os.getpid())
    run.write_outcome(Outcome(RunStatus.FAILED, code, "It failed.", "Mend it."))


def test_a_new_run_has_little_to_tell(run: RunDir) -> None:
    told = explain(run)
    assert (told.status, told.reason) == ("created", "new")
    assert told.findings == ("No step was recorded.",)
    assert told.rows == ()


def test_a_loss_that_was_no_number_names_its_rows(run: RunDir) -> None:
    fail(run, "non-finite-loss")
    fly(run, 2.0, 1.9, math.nan)
    told = explain(run)
    assert told.rows == ("food.jsonl:3",)
    assert any("Step 3 stands out: loss nan" in finding for finding in told.findings)
    assert "Lower training.learning_rate" in told.advice[0]
    assert any("food.jsonl:3" in advice for advice in told.advice)
    assert told.branch == {"lower_lr": "0.5", "skip_rows": "food.jsonl:3"}


def test_what_the_trainer_said_comes_last(run: RunDir) -> None:
    fail(run, "disk-full")
    assert explain(run).advice[-1] == "Mend it."


def evaluate(run: RunDir, losses: Mapping[int, float | str], *, saved: Sequence[int]) -> None:
    with run.metrics_writer() as writer:
        for step, loss in losses.items():
            writer.append({"step": step, "kind": "train", "train/learning_rate": 0.02})
            writer.append({"step": step, "kind": "eval", "eval/loss": loss})
    for step in saved:
        run.checkpoint(step).mkdir(parents=True)


@pytest.mark.parametrize("last", [386.0, "nan"])
def test_a_run_that_never_learned_is_started_again(last: float | str, run: RunDir) -> None:
    evaluate(run, {0: 5.96, 20: 1580.0, 40: last}, saved=[20, 40])
    fail(run, "non-finite-gradient")
    fly(run, 400.0, norm=math.inf)
    told = explain(run)
    assert "worse than the untrained model" in told.findings[0]
    assert "5.96 before training" in told.findings[0]
    assert (told.branch, told.again) == ({}, {"training.learning_rate": "0.002"})
    assert "start again" in told.advice[-1]


@pytest.mark.parametrize(
    ("losses", "branch"),
    [
        ({0: 5.9, 20: 2.1, 40: 386.0}, {"from_step": "20", "lower_lr": "0.1"}),
        (
            {0: 5.9, 20: 2.1, 40: 3.0},
            {"from_step": "20", "lower_lr": "0.5", "skip_rows": "food.jsonl:1"},
        ),
        ({0: 5.9, 20: 3.0, 40: 2.1}, {"lower_lr": "0.5", "skip_rows": "food.jsonl:1"}),
        ({0: 5.9, 10: 1.0, 20: 2.1, 40: 386.0}, {"from_step": "20", "lower_lr": "0.1"}),
    ],
    ids=["worse than untrained", "worse than the best", "the latest is the best", "only what was saved"],
)
def test_a_branch_leaves_from_the_best_checkpoint(
    losses: dict[int, float], branch: dict[str, str], run: RunDir
) -> None:
    evaluate(run, losses, saved=[20, 40])
    fail(run, "non-finite-loss")
    fly(run, math.nan)
    assert (explain(run).branch, explain(run).again) == (branch, {})
    assert not any("Mend it" in words for words in explain(run).advice)


@pytest.mark.parametrize(("result", "harm"), [(40, True), (20, False)])
def test_a_finished_run_that_did_harm_is_not_one_to_export(result: int, harm: bool, run: RunDir) -> None:
    """What counts is the model that it gave, which may be an earlier one than the last."""
    evaluate(run, {0: 5.96, 20: 3.0, 40: 171.0}, saved=[20, 40])
    run.begin_attempt(("a",), pid=os.getpid())
    run.write_outcome(Outcome(RunStatus.FINISHED, "completed", "Trained 40 steps.", step=result))
    told = explain(run)
    assert ("The result is worse than the untrained model" in told.findings[0]) is harm
    assert (told.advice == ("Try its answers, or export it.",)) is not harm
    assert (told.branch == {"from_step": "20", "lower_lr": "0.1"}) is harm


def test_an_infinite_gradient_counts_too(run: RunDir) -> None:
    fail(run, "non-finite-gradient")
    fly(run, 2.0, norm=math.inf)
    assert explain(run).rows == ("food.jsonl:1",)


def test_a_spike_stands_out_and_a_steady_run_does_not(run: RunDir) -> None:
    fail(run, "internal-error")
    fly(run, 2.0, 2.1, 1.9, 2.0, 9.0, 2.0)
    assert explain(run).rows == ("food.jsonl:5",)
    run.flight_file.unlink()
    fly(run, 2.0, 2.1, 1.9, 2.0, 2.2, 2.0)
    assert explain(run).rows == ()


def test_memory_and_machine_are_told(run: RunDir) -> None:
    fail(run, "out-of-memory")
    fly(run, 2.0)
    with JsonlWriter(run.system_file) as writer:
        writer.append({"memory_used_bytes": 90, "memory_total_bytes": 100, "disk_free_bytes": 2**30})
    text = " ".join(explain(run).findings)
    assert "up to 512 MiB" in text
    assert "90% of its memory" in text
    assert "1.0 GiB of disk" in text


def test_a_machine_record_without_numbers_is_left_out(run: RunDir) -> None:
    with JsonlWriter(run.system_file) as writer:
        writer.append({"memory_used_bytes": "much"})
    assert explain(run).findings == ("No step was recorded.",)


def test_how_the_process_ended_and_what_is_kept(run: RunDir) -> None:
    attempt = run.begin_attempt(("a",), pid=os.getpid())
    run.checkpoint(20).mkdir(parents=True)
    assert any("not recorded" in finding for finding in explain(run).findings)
    run.end_attempt(attempt, "crashed", signal_number=11)
    text = " ".join(explain(run).findings)
    assert "SIGSEGV" in text
    assert "newest checkpoint is of step 20" in text


def test_a_damaged_run_can_be_explained(run: RunDir) -> None:
    run.begin_attempt(("a",))
    (run.attempts / "1.json").write_text("{")
    told = explain(run)
    assert told.reason == "damaged"
    assert "1.json" in " ".join(told.findings)
    assert "set aside" in told.advice[0]


def test_after_a_harmful_run_findings_about_its_data_come_before_the_learning_rate(run: RunDir) -> None:
    do_harm(run)
    run.write_data_check(
        DataCheck(
            (
                DataFinding("duplicates", "Rows are repeated", "block", 9, "Harm.", ("f:1", "f:2")),
                DataFinding("conflicting-answers", "Answers differ", "warn", 4, "Harm.", ("f:3",)),
                DataFinding("label-imbalance", "Uneven", "info", 1, "Harm."),
            ),
            ("duplicates",),
        )
    )
    told = explain(run)
    assert told.findings[1:3] == (
        "The data check had found: Rows are repeated (duplicates, 9 rows, f:1, f:2). That was accepted.",
        "The data check had found: Answers differ (conflicting-answers, 4 rows, f:3).",
    )
    back = way_back(run, run.state())
    assert back is not None
    assert back.findings == told.findings[:3]
    assert "learning rate" in back.advice[0]


def test_a_run_that_did_no_harm_is_not_told_about_its_data(run: RunDir) -> None:
    run.write_data_check(DataCheck((DataFinding("duplicates", "Rows are repeated", "block", 9, "Harm."),)))
    assert not any("data check" in finding for finding in explain(run).findings)
    assert way_back(run, run.state()) is None


def test_what_the_data_check_found_may_be_damaged(run: RunDir) -> None:
    do_harm(run)
    run.data_check_file.write_text("{")
    assert "What the data check found is damaged" in explain(run).findings[1]


def test_odd_lines_of_the_flight_record_do_no_harm(run: RunDir) -> None:
    run.flight_file.write_text(
        '{"step":1}\n{"loss":2}\n{"step":2,"loss":"what","rows":"x","memory_bytes":"y"}\n'
    )
    steps = read_flight(run)
    assert [step.step for step in steps] == [1, 2]
    assert all(math.isnan(step.loss) and step.rows == () and step.memory_bytes == 0 for step in steps)


def test_only_the_last_steps_are_shown(run: RunDir) -> None:
    fly(run, *[2.0] * 30)
    assert [step.step for step in explain(run).last_steps] == list(range(21, 31))
