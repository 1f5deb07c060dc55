"""The run folder: backend/run/folder.py."""

from __future__ import annotations

import os
import re
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import NextStep, RunError
from backend.run.environment import Environment
from backend.run.folder import CONFIG_END, RunDir
from backend.run.handover import Handover
from backend.run.reports import Outcome, QueueTicket, RunStatus
from tests.fakes import FailingFileSystem

DONE = Outcome(RunStatus.FINISHED, "completed", "Done.", step=10, result="adapter")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "runs", "Tiny model: food!", "seed: 1\n")


class TestCreating:
    def test_the_name_tells_when_and_what(self, run: RunDir) -> None:
        assert re.fullmatch(r"\d{8}-\d{6}-tiny-model-food-[0-9a-f]{4}", run.id)
        assert run.read_config_text() == f"seed: 1\n{CONFIG_END}\n"
        assert run.status() is RunStatus.CREATED

    def test_only_the_owner_may_look(self, run: RunDir) -> None:
        assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
        assert stat.S_IMODE(run.config.stat().st_mode) == 0o600

    @pytest.mark.parametrize("slug", ["../../x", "/abs", "a\0b", "", "ünïcödé " * 100, "..", "%2e%2e", "con"])
    def test_w12_a_name_never_leads_out(self, tmp_path: Path, slug: str) -> None:
        made = RunDir.create(tmp_path / "runs", slug, "seed: 1")
        assert made.path.parent == tmp_path / "runs"
        assert len(made.id) <= 64
        assert [path.name for path in tmp_path.iterdir()] == ["runs"]

    def test_w06_two_in_one_second_do_not_collide(self, tmp_path: Path) -> None:
        assert len({RunDir.create(tmp_path, "a", "seed: 1").id for _ in range(50)}) == 50

    def test_a_place_whose_name_is_not_utf8_is_refused(self, tmp_path: Path) -> None:
        """The libraries that save a model could write nothing there when the run ends."""
        with pytest.raises(RunError, match="not UTF-8") as caught:
            RunDir.create(tmp_path / os.fsdecode(b"ru\xffns"), "a", "seed: 1")
        assert caught.value.code == "runs-not-writable"
        assert list(tmp_path.iterdir()) == []
        moved = RunDir.create(tmp_path, "a", "seed: 1").path.rename(tmp_path / os.fsdecode(b"ru\xff"))
        with pytest.raises(RunError, match="not UTF-8"):
            RunDir(moved).begin_attempt(("x",))

    @pytest.mark.parametrize("fail_at", range(1, 7))
    def test_a_refusing_disk_leaves_nothing(self, tmp_path: Path, fail_at: int) -> None:
        with pytest.raises(RunError, match="No space left") as caught:
            RunDir.create(tmp_path, "a", "seed: 1", fs=FailingFileSystem(fail_at))
        assert caught.value.code == "runs-not-writable"
        assert list(tmp_path.iterdir()) == []


class TestFinding:
    def test_by_id_beginning_and_folder(self, run: RunDir) -> None:
        root = run.path.parent
        assert RunDir.find(root, run.id) == run
        assert RunDir.find(root, run.id[:12]) == run
        assert RunDir.find(root / "elsewhere", str(run.path)) == run
        assert RunDir.open(run.path) == run

    def test_a_beginning_of_several_is_refused(self, run: RunDir) -> None:
        RunDir.create(run.path.parent, "other", "seed: 1")
        with pytest.raises(RunError, match="begins the names of 2 runs") as caught:
            RunDir.find(run.path.parent, run.id[:4])
        assert caught.value.code == "ambiguous-run"

    def test_an_id_that_begins_another_is_found(self, run: RunDir) -> None:
        shutil.copytree(run.path, run.path.with_name(f"{run.id}-copy"))
        assert RunDir.find(run.path.parent, run.id) == run

    def test_a_typing_error_gets_a_suggestion(self, run: RunDir) -> None:
        with pytest.raises(RunError, match=f"Did you mean {run.id}") as caught:
            RunDir.find(run.path.parent, run.id[:-1] + "x")
        assert caught.value.code == "no-such-run"

    @pytest.mark.parametrize("name", ["", "x" * 256])
    def test_a_name_that_no_folder_can_have_is_no_run(self, run: RunDir, name: str) -> None:
        with pytest.raises(RunError) as caught:
            RunDir.find(run.path.parent, name)
        assert caught.value.code == "no-such-run"

    @pytest.mark.parametrize("name", ["", "nothing", "..", "."])
    def test_nothing_is_never_found(self, run: RunDir, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(run.path.parent)
        with pytest.raises(RunError):
            RunDir.find(run.path.parent, name)

    def test_a_foreign_folder_is_no_run(self, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        with pytest.raises(RunError, match="no run folder"):
            RunDir.open(tmp_path / "photos")
        with pytest.raises(RunError, match="no run folder"):
            RunDir.find(tmp_path, str(tmp_path / "photos"))
        assert RunDir.all_under(tmp_path) == []

    def test_opening_a_damaged_run_says_what_is_wrong(self, run: RunDir) -> None:
        run.outcome_file.write_text("{")
        with pytest.raises(RunError, match=r"outcome\.json") as caught:
            RunDir.open(run.path)
        assert caught.value.code == "damaged-run"
        assert RunDir.find(run.path.parent, run.id) == run


class TestAttempts:
    def test_a_life_in_the_foreground(self, run: RunDir) -> None:
        with run.lock():
            attempt = run.begin_attempt(("tunesmith", "train"), pid=os.getpid())
            assert run.status() is RunStatus.STARTING
            run.write_environment(Environment())
            assert run.status() is RunStatus.RUNNING
            run.request_stop("paused")
            assert run.state().reason == "paused"
            run.write_outcome(replace(DONE, status=RunStatus.STOPPED, code="paused"))
            run.end_attempt(attempt, "exited", exit_code=3)
        assert run.status() is RunStatus.STOPPED
        assert run.read_attempt(1).end is not None
        assert run.read_environment() == Environment(attempt=1)

    def test_an_outcome_belongs_to_its_attempt(self, run: RunDir) -> None:
        run.begin_attempt(("a",))
        run.write_outcome(DONE)
        assert run.read_outcome() == replace(DONE, attempt=1)
        run.begin_attempt(("b",))
        assert run.read_outcome() is None
        assert run.state().reason == "lost"

    def test_attempts_are_counted(self, run: RunDir) -> None:
        assert [run.begin_attempt(("a",)).number for _ in range(3)] == [1, 2, 3]
        latest = run.latest_attempt()
        assert latest is not None
        assert latest.number == 3

    def test_before_the_first_there_is_none(self, run: RunDir) -> None:
        assert run.latest_attempt() is None
        assert run.read_outcome() is None
        assert run.read_environment() == Environment()
        with pytest.raises(RunError, match="missing"):
            run.read_attempt(1)

    def test_a_process_may_follow(self, run: RunDir) -> None:
        attempt = run.set_process(run.begin_attempt(("a",), token="t"), os.getpid())
        assert attempt.process is not None
        assert run.latest_attempt() == attempt

    def test_the_attempt_takes_its_device_from_the_ticket_and_spends_it(self, run: RunDir) -> None:
        run.write_ticket(QueueTicket("now", 0, 1.0, device="cuda:1"))
        assert run.status() is RunStatus.QUEUED
        assert run.begin_attempt(("a",)).device == "cuda:1"
        assert run.read_ticket() is None

    def test_f09_another_boot_is_named(self, run: RunDir) -> None:
        run.begin_attempt(("a",), pid=os.getpid())
        path = run.attempts / "1.json"
        path.write_text(re.sub(r'"boot_id": "[^"]+"', '"boot_id": "before"', path.read_text()))
        assert run.state().reason == "rebooted"

    def test_w02_a_dead_run_never_reads_running(self, run: RunDir) -> None:
        with run.lock():
            run.begin_attempt(("a",), pid=os.getpid())
            run.write_environment(Environment())
        state = run.state()
        assert state.status is RunStatus.INTERRUPTED
        assert state.next_step is NextStep.RESUME


class TestLock:
    def test_f12_a_second_holder_is_told_so(self, run: RunDir) -> None:
        with run.lock(), pytest.raises(RunError, match="being worked on") as caught, run.lock():
            pytest.fail("two holders")
        assert caught.value.code == "already-running"

    def test_a_new_holder_starts_without_a_stop(self, run: RunDir) -> None:
        run.request_stop()
        with run.lock():
            assert run.stop_requested() is None

    def test_an_heir_keeps_the_stop(self, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
        with run.lock() as descriptor:
            run.request_stop("paused")
            for name, value in Handover(lock=os.dup(descriptor)).environ().items():
                monkeypatch.setenv(name, value)
            with run.lock():
                assert run.stop_requested() == "paused"
            assert run.is_held()
        assert not run.is_held()

    @pytest.mark.parametrize("given", ["", "abc", "-1", "99999"])
    def test_a_wrong_descriptor_is_no_key(
        self, run: RunDir, given: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TUNESMITH_RUN_LOCK_FD", given)
        with run.lock():
            assert run.is_held()


class TestStopping:
    def test_a_request_is_seen_and_forgotten(self, run: RunDir) -> None:
        assert run.stop_requested() is None
        run.request_stop("disk-low")
        assert run.stop_requested() == "disk-low"
        run.clear_stop()
        run.clear_stop()
        assert run.stop_requested() is None


class TestLines:
    def test_reports_come_once(self, run: RunDir) -> None:
        with run.metrics_writer() as writer:
            writer.append({"step": 1})
            tail = run.metrics()
            writer.append({"step": 2})
        assert tail.records == [{"step": 1}]
        assert run.metrics(tail.position).records == [{"step": 2}]

    def test_rewinding_forgets_what_came_after(self, run: RunDir) -> None:
        with run.metrics_writer() as metrics, run.samples_writer() as samples:
            for step in range(1, 6):
                metrics.append({"step": step})
                samples.append({"step": step, "generated": "x"})
            metrics.append({"no": "step"})
        run.rewind_metrics(3)
        assert [record["step"] for record in run.metrics().records] == [1, 2, 3]
        assert [record["step"] for record in run.samples().records] == [1, 2, 3]

    def test_the_flight_record_is_bounded(self, run: RunDir) -> None:
        with run.flight_writer() as writer:
            for step in range(1000):
                writer.append({"step": step})
        steps = [record["step"] for record in run.flight().records]
        assert steps[-1] == 999
        assert 200 <= len(steps) < 400


class TestDamage:
    @pytest.mark.parametrize(
        "name", ["config.yaml", "attempts/1.json", "outcome.json", "queued", "environment.json"]
    )
    def test_f21_no_truncation_reads_idle(self, run: RunDir, name: str) -> None:
        run.begin_attempt(("a",), pid=os.getpid())
        run.write_environment(Environment())
        run.write_outcome(DONE)
        run.write_ticket(QueueTicket("now", 1, 1.0))
        whole = (run.path / name).read_bytes()
        for length in range(len(whole.rstrip())):
            (run.path / name).write_bytes(whole[:length])
            state = run.state()
            assert state.status is RunStatus.FAILED
            assert state.reason == "damaged"
            assert Path(name).name in state.message

    @pytest.mark.parametrize(
        "text", ['{"status": "running"', '{"status": "running", "code": "", "message": ""}', "7"]
    )
    def test_an_outcome_that_is_none_is_damage(self, run: RunDir, text: str) -> None:
        run.outcome_file.write_text(text)
        assert run.state().reason == "damaged"

    def test_a_poisoned_pid_is_damage(self, run: RunDir) -> None:
        run.begin_attempt(("a",), pid=os.getpid())
        path = run.attempts / "1.json"
        path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 1'))
        assert "not a usable process id" in run.state().damage

    def test_a_missing_config_is_damage(self, run: RunDir) -> None:
        run.begin_attempt(("a",))
        run.config.unlink()
        assert "config.yaml" in run.state().damage

    def test_a_vanished_folder_is_not_idle(self, run: RunDir) -> None:
        shutil.rmtree(run.path)
        assert "gone" in run.state().message

    def test_setting_damage_aside_lets_the_run_go_on(self, run: RunDir) -> None:
        run.begin_attempt(("a",))
        run.outcome_file.write_text("{")
        run.environment.write_text("{")
        moved = run.set_damage_aside()
        assert sorted(path.name.split(".damaged-")[0] for path in moved) == [
            "environment.json",
            "outcome.json",
        ]
        assert all(path.exists() for path in moved)
        assert run.state().status is RunStatus.INTERRUPTED
        assert run.damage() == ""

    def test_the_outcome_of_an_attempt_is_not_that_of_the_next_with_its_number(self, run: RunDir) -> None:
        run.begin_attempt(("a",))
        run.write_outcome(Outcome(RunStatus.FAILED, "non-finite-loss", "The loss became nan.", step=3))
        run.attempt_file(1).write_text("")
        assert [path.name.split(".damaged-")[0] for path in run.set_damage_aside()] == [
            "1.json",
            "outcome.json",
        ]
        attempt = run.begin_attempt(("b",))
        run.end_attempt(attempt, "no-outcome", exit_code=0)
        assert (attempt.number, run.state().reason) == (1, "no-outcome")

    def test_a_damaged_config_is_left_where_it_is(self, run: RunDir) -> None:
        run.config.write_text("")
        assert run.set_damage_aside() == []
        assert run.config.exists()
