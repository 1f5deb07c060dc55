"""A run trained here or in the background: backend/commands/carry_out.py."""

from __future__ import annotations

import io
import os
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from backend import trainer_main
from backend.commands.carry_out import after_run, carry_out
from backend.manager import process_manager
from backend.manager.queue_manager import QueueManager
from backend.manager.ranks import torchrun_command
from backend.run.folder import RunDir
from backend.run.reports import RunState, RunStatus
from tests.runs import SHORT, do_harm, make_run, write_rows


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    _ = [monkeypatch.delenv(name) for name in os.environ if name.startswith("TUNESMITH__")]


def test_a_reader_who_leaves_hides_no_exit_code_and_holds_up_no_queue(
    learner: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "runs", learner, rows_file, SHORT | {"training.max_steps": 1})
    told = create_autospec(after_run)
    monkeypatch.setitem(carry_out.__globals__, "after_run", told)
    monkeypatch.setattr("sys.stdout", Gone())
    assert carry_out(run, as_json=True) == 0
    told.assert_called_once_with(run)


class Gone(io.StringIO):
    """A stream that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


class TestHere:
    def test_a_stop_is_told_with_the_way_on(
        self, tmp_path: Path, learner: Path, rows_file: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        run = make_run(tmp_path / "runs", learner, rows_file)
        real = trainer_main.train_steps

        def interrupted(*args: Any, **options: Any) -> Any:
            for report in real(*args, **options):
                os.kill(os.getpid(), {2: signal.SIGINT}.get(report.step, 0))
                yield report

        monkeypatch.setattr(trainer_main, "train_steps", interrupted)
        assert carry_out(run, as_json=False) == 130
        printed = capsys.readouterr().out
        assert "Stopped: Stopped after step 2 of 4; a checkpoint is saved." in printed
        assert f"tunesmith runs resume {run.id}" in printed

    def test_a_failure_is_told_with_its_remedy(
        self, tmp_path: Path, learner: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = write_rows(tmp_path / "rows.jsonl")
        run = make_run(tmp_path / "runs", learner, rows)
        write_rows(rows, [])
        assert carry_out(run, as_json=False) == 2
        printed = capsys.readouterr().out
        assert "Failed: " in printed
        assert "is empty" in printed
        assert "Traceback" not in printed

    def test_the_folder_is_named_where_the_id_is_not_enough(
        self, tmp_path: Path, trained: RunDir, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = RunDir(Path(shutil.copytree(trained.path, tmp_path / trained.id)))
        run.samples_file.write_text("")  # as without held-out rows, which alone can be evaluated
        assert carry_out(run, as_json=False) == 0
        printed = capsys.readouterr().out
        assert f"tunesmith chat {run.path}" in printed
        assert "tunesmith evaluate" not in printed

    def test_a_run_that_did_harm_is_not_one_to_talk_to(
        self,
        tmp_path: Path,
        learner: Path,
        rows_file: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        run = make_run(tmp_path / "runs", learner, rows_file)
        trained = create_autospec(trainer_main.run, side_effect=lambda run, _: do_harm(run))
        monkeypatch.setattr(trainer_main, "run", trained)
        assert carry_out(run, as_json=False) == 0
        printed = capsys.readouterr().out
        assert f"tunesmith runs resume {run.id} --from-step 20" in printed
        assert "tunesmith chat" not in printed

    def test_several_processes_train_in_the_background(
        self,
        tmp_path: Path,
        learner: Path,
        rows_file: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        state = RunState(RunStatus.STARTING, "starting", "", "")
        start = create_autospec(process_manager.start, return_value=state)
        monkeypatch.setattr(process_manager, "start", start)
        run = make_run(tmp_path / "runs", learner, rows_file, SHORT | {"training.nproc_per_node": 2})
        assert carry_out(run, as_json=False) == 0
        start.assert_called_once_with(run)
        assert "trains in the background" in capsys.readouterr().out

    @pytest.mark.parametrize("as_json", [False, True])
    def test_a_run_of_several_machines_is_made_and_handed_over(
        self,
        learner: Path,
        rows_file: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        as_json: bool,
    ) -> None:
        run = make_run(tmp_path / "runs", learner, rows_file, SHORT | {"training.nnodes": 2})
        assert carry_out(run, as_json=as_json) == 0
        assert torchrun_command(run) in capsys.readouterr().out
        assert run.status() is RunStatus.CREATED


def test_b2_the_slot_of_a_run_in_the_foreground_is_filled_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = create_autospec(process_manager.start)
    monkeypatch.setattr(QueueManager.__init__, "__defaults__", (start,))
    over, waiting = (RunDir.create(tmp_path, name, "seed: 1") for name in ("over", "waiting"))
    QueueManager(tmp_path).enqueue(waiting, hold=True)
    QueueManager(tmp_path).change(waiting, hold=False)
    monkeypatch.setattr("backend.manager.queue_watch.spawn_detached", lambda *_, **__: 0)
    after_run(over)
    start.assert_called_once_with(waiting)
