"""Training that ends when the held-out loss falls no more, and whose result is its best model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backend import trainer_main
from backend.run.folder import RunDir
from backend.run.reports import Progress, RunStatus, StepReport
from tests.runs import ROWS, SHORT, learner_folder, lines, make_run, series, write_rows

STEPS = 30
EVERY_TWO = SHORT | {"training.max_steps": STEPS, "evaluation.eval_steps": 2, "training.save_steps": 0}
PATIENT = EVERY_TWO | {"evaluation.early_stopping_patience": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learner_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Rows to learn, and held-out ones whose answers contradict them: their loss falls for a while, then rises."""
    folder = tmp_path_factory.mktemp("rows")
    against = [{"prompt": f"{row['prompt']} again", "completion": "nothing of it"} for row in ROWS[6:10]]
    held = write_rows(folder / "held.jsonl", against)
    return {"train": str(write_rows(folder / "rows.jsonl")), "held": str(held)}


def made(folder: Path, model: Path, rows: dict[str, str], changes: dict[str, object] = PATIENT) -> RunDir:
    return make_run(folder, model, Path(rows["train"]), changes | {"data.validation": rows["held"]})


@pytest.fixture(scope="module")
def stopped_early(tmp_path_factory: pytest.TempPathFactory, model: Path, rows: dict[str, str]) -> RunDir:
    """Read only."""
    run = made(tmp_path_factory.mktemp("runs"), model, rows)
    assert trainer_main.run(run).status is RunStatus.FINISHED
    return run


def held_out_losses(run: RunDir) -> dict[int, float]:
    return {line["step"]: line["eval/loss"] for line in lines(run.metrics_file) if line["kind"] == "eval"}


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_it_ends_after_two_evaluations_without_a_lower_loss(stopped_early: RunDir) -> None:
    losses = held_out_losses(stopped_early)
    best = min(losses, key=lambda step: losses[step])
    assert list(losses) == list(range(0, best + 5, 2))
    assert best + 4 < STEPS
    outcome = stopped_early.read_outcome()
    assert outcome is not None
    assert outcome.step == best
    assert outcome.message == (
        f"Stopped early after step {best + 4} of {STEPS}: the held-out loss fell no more. "
        f"The result is the model of step {best}, where the held-out loss was lowest."
    )
    assert weights(stopped_early.adapter) == weights(stopped_early.checkpoint(best))


def test_a_finished_one_trains_no_further(stopped_early: RunDir, tmp_path: Path) -> None:
    copied = RunDir(shutil.copytree(stopped_early.path, tmp_path / stopped_early.id))
    shutil.rmtree(copied.adapter)  # as if the machine had gone down before the result was saved
    assert trainer_main.run(copied).message == getattr(stopped_early.read_outcome(), "message", "")
    assert weights(copied.adapter) == weights(stopped_early.adapter)
    assert series(copied) == series(stopped_early)


def test_its_outcome_is_the_same_where_it_was_killed_before_it_wrote_that(
    stopped_early: RunDir, tmp_path: Path
) -> None:
    copied = RunDir(shutil.copytree(stopped_early.path, tmp_path / stopped_early.id))
    copied.outcome_file.unlink()
    before, again = stopped_early.read_outcome(), trainer_main.run(copied)
    assert before is not None
    assert (again.status, again.step) == (before.status, before.step)
    assert weights(copied.adapter) == weights(copied.checkpoint(before.step))
    assert before.step < copied.newest_checkpoint_step()


def test_one_that_was_stopped_remembers_how_long_it_has_waited(
    stopped_early: RunDir, tmp_path: Path, model: Path, rows: dict[str, str]
) -> None:
    ended = max(held_out_losses(stopped_early))
    run = made(tmp_path, model, rows)

    def ask(progress: Progress) -> None:
        stop = isinstance(progress.report, StepReport) and progress.report.step == ended - 1
        _ = stop and run.request_stop()

    assert trainer_main.run(run, ask).status is RunStatus.STOPPED
    assert trainer_main.run(run).status is RunStatus.FINISHED
    assert series(run) == series(stopped_early)
    assert weights(run.adapter) == weights(stopped_early.adapter)


def test_the_best_of_all_steps(
    stopped_early: RunDir, tmp_path: Path, model: Path, rows: dict[str, str]
) -> None:
    changes = EVERY_TWO | {"training.max_steps": 10, "evaluation.load_best_model_at_end": True}
    run = made(tmp_path, model, rows, changes)
    outcome = trainer_main.run(run)
    losses = held_out_losses(run)
    assert max(losses) == 10
    assert outcome.step == min(losses, key=lambda step: losses[step])
    assert outcome.message.startswith("Trained 10 steps. The result is the model of step")


def test_a_damaged_best_gives_way_to_the_last_and_says_so(stopped_early: RunDir, tmp_path: Path) -> None:
    copied = RunDir(shutil.copytree(stopped_early.path, tmp_path / stopped_early.id))
    shutil.rmtree(copied.adapter)
    losses = held_out_losses(copied)
    best, last = min(losses, key=lambda step: losses[step]), max(losses)
    (copied.checkpoint(best) / "adapter_model.safetensors").write_bytes(b"x")
    outcome = trainer_main.run(copied)
    assert (outcome.status, outcome.step) == (RunStatus.FINISHED, last)
    assert f"of step {best}, is damaged; the result is the last one" in outcome.message
    assert weights(copied.adapter) == weights(copied.checkpoint(last))
    assert "The result is the last model instead" in copied.train_log.read_text()
