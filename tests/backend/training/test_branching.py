"""A branch goes on from a checkpoint with other settings and leaves the other run alone."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from backend.errors import ConfigError, DataError, RunError
from backend.run.folder import RunDir
from backend.run.methods import default_learning_rate
from backend.run.reports import Progress, RunStatus
from backend.run.settings import run_config
from backend.trainer_main import run
from backend.training import branching
from backend.training.branching import branch, branch_off, changed_config
from tests.runs import SHORT, lines, make_run, tree
from tests.tiny import tiny_model_folder


@pytest.fixture(scope="module")
def halted(tmp_path_factory: pytest.TempPathFactory, learner: Path, rows_file: Path) -> RunDir:
    """A run that was stopped after its first step; read only."""
    made = make_run(tmp_path_factory.mktemp("halted") / "runs", learner, rows_file)

    def ask(progress: Progress) -> None:
        _ = progress.report and made.request_stop()

    assert run(made, ask).status is RunStatus.STOPPED
    assert made.newest_checkpoint_step() == 1
    made.clear_stop()
    return made


@pytest.fixture
def stopped(tmp_path: Path, halted: RunDir) -> RunDir:
    """A copy of it."""
    return RunDir(Path(shutil.copytree(halted.path, tmp_path / "runs" / halted.id)))


def rates(made: RunDir) -> dict[int, float]:
    found = [line for line in lines(made.metrics_file) if line["kind"] == "train"]
    return {line["step"]: line["train/learning_rate"] for line in found}


def rows_after(made: RunDir, step: int) -> set[str]:
    return {row for line in lines(made.flight_file) if line["step"] > step for row in line["rows"]}


class TestBranchOff:
    def test_the_note_says_where_it_comes_from(self, stopped: RunDir) -> None:
        made, note = branch_off(stopped, rate_factor=0.5, skip_rows=["foods.jsonl:1"], micro_batch_tokens=64)
        changes = "learning rate 0.015, without foods.jsonl:1, 64 tokens at once"
        assert note == f"Branched off {stopped.id} at step 1, {changes}."
        assert run_config(made).data.skip_rows == ["foods.jsonl:1"]
        assert made.status() is RunStatus.CREATED

    def test_nothing_changed_is_a_branch_all_the_same(self, stopped: RunDir) -> None:
        _, note = branch_off(stopped)
        assert note == f"Branched off {stopped.id} at step 1."

    def test_rows_that_cannot_be_left_out_make_no_branch(self, stopped: RunDir) -> None:
        with pytest.raises(DataError, match="no training row"):
            branch_off(stopped, skip_rows=["foods.jsonl:999"])
        assert RunDir.all_under(stopped.path.parent) == [stopped]


class TestChangedConfig:
    def test_nothing_asked_changes_nothing(self, stopped: RunDir) -> None:
        assert changed_config(stopped) == run_config(stopped)

    def test_a_rate_that_was_set_is_scaled(self, stopped: RunDir) -> None:
        assert changed_config(stopped, rate_factor=0.5).training.learning_rate == 0.015

    @pytest.mark.parametrize("method", ["lora", "full"])
    def test_a_rate_that_was_not_set_is_scaled_from_the_one_the_trainer_chooses(
        self, tmp_path: Path, learner: Path, rows_file: Path, method: str
    ) -> None:
        unset = SHORT | {"training.learning_rate": None, "tuning.method": method}
        made = make_run(tmp_path, learner, rows_file, unset)
        rate = changed_config(made, rate_factor=0.5).training.learning_rate
        assert rate == pytest.approx(default_learning_rate(method, 32) / 2)

    @pytest.mark.parametrize("factor", [0.0, 1.0, 2.0, -0.5, float("nan")])
    def test_a_factor_that_does_not_lower_it_is_refused(self, stopped: RunDir, factor: float) -> None:
        with pytest.raises(RunError) as caught:
            changed_config(stopped, rate_factor=factor)
        assert caught.value.code == "bad-factor"

    def test_less_at_once_is_the_only_change(self, stopped: RunDir) -> None:
        config = run_config(stopped)
        changed = changed_config(stopped, micro_batch_tokens=64)
        training = config.training.model_copy(update={"micro_batch_tokens": 64})
        assert changed == config.model_copy(update={"training": training})

    @pytest.mark.parametrize("size", [0, 7, -1, 2_000_000])
    def test_a_size_out_of_range_is_refused(self, stopped: RunDir, size: int) -> None:
        with pytest.raises(ConfigError, match=r"training\.micro_batch_tokens"):
            changed_config(stopped, micro_batch_tokens=size)

    def test_a_base_that_was_moved_is_named_and_another_refused(
        self, stopped: RunDir, learner: Path, tmp_path: Path
    ) -> None:
        moved = Path(shutil.copytree(learner, tmp_path / "moved"))
        assert changed_config(stopped, base_model=str(moved)).model.model_name_or_path == str(moved)
        other = tiny_model_folder(tmp_path / "other", seed=3)
        with pytest.raises(RunError) as caught:
            changed_config(stopped, base_model=str(other))
        assert caught.value.code == "base-changed"

    def test_skipped_rows_add_up(self, tmp_path: Path, learner: Path, rows_file: Path) -> None:
        made = make_run(tmp_path, learner, rows_file, SHORT | {"data.skip_rows": ["foods.jsonl:1"]})
        skipped = changed_config(made, skip_rows=["foods.jsonl:2", "foods.jsonl:1"]).data.skip_rows
        assert skipped == ["foods.jsonl:1", "foods.jsonl:2"]


@pytest.mark.slow
class TestBranch:
    def test_it_trains_to_the_end_at_half_the_rate_and_the_other_is_untouched(self, stopped: RunDir) -> None:
        before = tree(stopped.path)
        made = branch(stopped, changed_config(stopped, rate_factor=0.5))
        assert made.step == 1
        assert made.run.status() is RunStatus.CREATED
        assert run(made.run).status is RunStatus.FINISHED
        assert tree(stopped.path) == before
        assert run(stopped).status is RunStatus.FINISHED
        whole, halved = rates(stopped), rates(made.run)
        assert halved[1] == whole[1]
        assert [halved[step] for step in (2, 3, 4)] == pytest.approx([whole[step] / 2 for step in (2, 3, 4)])

    def test_it_goes_on_from_the_checkpoint_and_not_from_the_start(self, stopped: RunDir) -> None:
        made = branch(stopped, changed_config(stopped)).run
        assert run(made).code == "completed"
        assert run(stopped).code == "completed"
        last = "checkpoints/step-000004/adapter_model.safetensors"
        assert (made.path / last).read_bytes() == (stopped.path / last).read_bytes()
        assert [line["step"] for line in lines(made.flight_file)] == [2, 3, 4]

    def test_rows_that_are_skipped_are_never_seen_again(self, stopped: RunDir) -> None:
        config = run_config(stopped)
        assert run(stopped).code == "completed"
        bad = sorted(rows_after(stopped, 2))[:3]
        made = branch(stopped, changed_config(stopped, skip_rows=bad), from_step=2).run
        assert run(made).code == "completed"
        assert rows_after(made, 2).isdisjoint(bad)
        assert run_config(made).data.skip_rows == bad
        assert run_config(stopped) == config

    def test_an_earlier_step_takes_nothing_over_from_after_it(self, stopped: RunDir) -> None:
        assert run(stopped).code == "completed"
        made = branch(stopped, changed_config(stopped), from_step=2).run
        assert [path.name for path in made.checkpoints.iterdir()] == ["step-000002"]
        assert {line["step"] for line in lines(made.metrics_file)} == {0, 1, 2}
        assert {line["step"] for line in lines(made.samples_file)} == {0, 2}

    def test_without_a_good_checkpoint_it_begins_anew(self, stopped: RunDir) -> None:
        (stopped.checkpoint(1) / "optimizer.safetensors").write_bytes(b"damaged")
        made = branch(stopped, changed_config(stopped))
        assert made.step == 0
        assert not made.run.checkpoints.exists()
        assert not made.run.metrics_file.exists()
        assert made.run.read_environment().facts == stopped.read_environment().facts

    def test_a_run_that_never_began_gives_its_settings(
        self, tmp_path: Path, learner: Path, rows_file: Path
    ) -> None:
        new = make_run(tmp_path, learner, rows_file)
        made = branch(new, changed_config(new, rate_factor=0.1))
        assert [path.name for path in made.run.path.iterdir()] == ["config.yaml"]


class TestRefusals:
    def test_nothing_is_left_after_the_last_checkpoint(self, stopped: RunDir) -> None:
        assert run(stopped).code == "completed"
        with pytest.raises(RunError, match="`from_step`: 2") as caught:
            branch(stopped, changed_config(stopped))
        assert caught.value.code == "nothing-left"

    def test_there_is_no_such_checkpoint(self, stopped: RunDir) -> None:
        with pytest.raises(RunError, match="It has: 1") as caught:
            branch(stopped, changed_config(stopped), from_step=3)
        assert caught.value.code == "no-such-checkpoint"

    def test_someone_works_on_the_run(self, stopped: RunDir) -> None:
        config = changed_config(stopped)
        with stopped.lock(), pytest.raises(RunError) as caught:
            branch(stopped, config)
        assert caught.value.code == "already-running"

    def test_a_disk_that_refuses_leaves_nothing(
        self, stopped: RunDir, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        config = changed_config(stopped)
        monkeypatch.setattr(branching.shutil, "copytree", full)
        with pytest.raises(RunError, match="No space left") as caught:
            branch(stopped, config)
        assert caught.value.code == "cannot-branch"
        assert [path.name for path in stopped.path.parent.iterdir()] == [stopped.id]
